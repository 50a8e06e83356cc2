#!/usr/bin/env python3
"""Runs the whole service on this machine: Redis, the functions, a first conversation and the page (`make run`).

Settings are read from the environment: PORT (default 9000), REDIS_URL to use your own Redis, LLM_BASE_URL with
LLM_API_KEY and LLM_MODEL to use a real model instead of the built-in echo, and every other variable that the functions
read. PAGE=off serves no page. RUN_ONCE=1 (or --once) exits after the conversation, with status 0 if it went as
expected.

When the script ends, it stops all servers and functions and removes the file with the secret.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, TextIO

import client
import page
from client import ROOT, RUN, Chat, ChatError

LOCK = RUN / "lock"
FUNCTIONS_LOG = RUN / "functions.log"
REDIS_LOG = RUN / "redis.log"
CARGO_LAMBDA = ROOT / ".tools" / "venv" / "bin" / "cargo-lambda"

# Lets two terminals chat at once; by default, `watch` serves one request at a time.
INSTANCES_PER_FUNCTION = 2
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 5.0

CHARACTER = "luna"
FIRST_MESSAGE = "我叫小雨，我喜欢下雨天。"
SECOND_MESSAGE = "你还记得我刚才说了什么吗？"


class Failure(Exception):
    """The reason why the run cannot go on, as a sentence, and a log whose last lines may explain it."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class Stopped(BaseException):
    """The user pressed Ctrl-C, or the process received a signal to end."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        description="Run the service on this machine and hold a first conversation with it."
    )
    help_once = "exit after the conversation, with status 0 if it went as expected"
    parser.add_argument("--once", action="store_true", help=help_once)
    once = parser.parse_args(arguments).once or environ.get("RUN_ONCE", "") not in ("", "0")

    signals = Signals()
    servers = Servers(signals)
    talk: page.Page | None = None
    serving = False
    try:
        port = port_of(environ)
        url = f"http://127.0.0.1:{port}"
        settings = function_settings(environ)
        _lock = claim_folder(url)
        require_free(port)
        require_tools(settings)
        if not once and not page.is_off(environ):
            talk = prepare_page(settings, url, port)
        build(servers, settings)
        start_redis(servers, settings)
        start_functions(servers, settings, port)
        run = describe_run(settings, url)
        client.write_env(client.ENV_FILE, run)
        chat = client.connect(run)
        wait_for_functions(servers, url)
        turns = [take_turn(chat, FIRST_MESSAGE), take_turn(chat, SECOND_MESSAGE)]
        problems = check_turns(turns, echo=settings["LLM_PROVIDER"] == "echo", whole=not has_small_window(settings))
        problems += check_log(FUNCTIONS_LOG.read_text(encoding="utf-8", errors="replace"), run, turns)
        if problems:
            raise Failure("the conversation did not go as expected: " + "; ".join(problems), FUNCTIONS_LOG)
        show_session(chat)
        if once:
            return 0
        show_next_steps(run, serve_page(talk))
        serving = True
        servers.watch()
    except Stopped:
        say("\nStopping.")
        return 0 if serving else 130
    except (Failure, ChatError) as failure:
        say(f"\nSorry: {failure}.")
        show_log_tail(failure.log if isinstance(failure, Failure) else FUNCTIONS_LOG)
        return 1
    finally:
        signals.ignore()
        if talk:
            talk.stop()
        servers.stop()
        remove_own_env()
    return 1


# --- settings -------------------------------------------------------------------------------------------------


def port_of(environ: Mapping[str, str]) -> int:
    """Returns the port to serve on."""
    text = environ.get("PORT") or "9000"
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise Failure(f"PORT must be a number from 1 to 65535, not {text!r}")
    return int(text)


def claim_folder(url: str) -> TextIO:
    """Returns the lock that makes this the only run of the folder: two would replace each other's files and logs.

    The operating system releases it when the process ends, however it ends. Raises Failure if another run holds it.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    file = open(LOCK, "a+", encoding="utf-8")  # noqa: SIM115 - it stays open until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "it is just starting"
        file.close()
        already = f"`make run` is already running in this folder ({holder})"
        raise Failure(f"{already}; stop it first, or talk to it with `make chat`") from None
    file.truncate(0)
    file.write(f"{url}, process {os.getpid()}")
    file.flush()
    return file


def require_free(port: int) -> None:
    """Raises Failure if another process uses the port."""
    other = port + 100 if port <= 65435 else 9000
    with socket.socket() as probe:
        # The server sets this option too: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise Failure(f"port {port} needs root privileges; choose another: PORT={other} make run") from None
        except OSError:
            raise Failure(f"port {port} is in use; choose another: PORT={other} make run") from None


def function_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of the functions: the caller's, with defaults for a local run."""
    settings = dict(environ)
    settings.setdefault("LOG_LEVEL", "warn")
    settings.setdefault("LOG_FORMAT", "text")
    # Metrics are for CloudWatch, which does not read the log of a local run.
    settings.setdefault("METRICS", "off")
    for name in ("JWT_SECRET_SECRET_ARN", "AUTH_TRUST_AUTHORIZER"):
        if settings.get(name, "false").lower() not in ("", "false"):
            raise Failure(f"{name} is for deployments only; a local run signs its own tokens with JWT_SECRET")
    if not settings.get("JWT_SECRET"):
        settings["JWT_SECRET"] = secrets.token_urlsafe(32)
    if not settings.get("LLM_PROVIDER"):
        wants_model = any(settings.get(name) for name in ("LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL"))
        settings["LLM_PROVIDER"] = "openai" if wants_model else "echo"
    if settings["LLM_PROVIDER"] == "openai":
        for name in ("LLM_BASE_URL", "LLM_MODEL"):
            if not settings.get(name):
                raise Failure(f"{name} is missing; a model needs LLM_BASE_URL, LLM_API_KEY and LLM_MODEL")
        # An empty key means that the server needs none, as local servers do; an unset key may have been forgotten. The
        # functions require a key, so they get a placeholder, which such a server ignores.
        if not settings.get("LLM_API_KEY_SECRET_ARN"):
            if "LLM_API_KEY" not in settings:
                raise Failure(
                    "LLM_API_KEY is missing; set it to the empty string (LLM_API_KEY=) if the server needs none"
                )
            settings["LLM_API_KEY"] = settings["LLM_API_KEY"] or "none"
    return settings


def require_tools(settings: Mapping[str, str]) -> None:
    """Checks the tools that scripts/setup.sh installs, in case the script was started without `make`."""
    tools = ["cargo"] if settings.get("REDIS_URL") else ["cargo", "redis-server"]
    missing = [tool for tool in tools if not shutil.which(tool)]
    if not CARGO_LAMBDA.exists():
        missing.append("cargo-lambda")
    if missing:
        raise Failure(f"{' and '.join(missing)} not found; run scripts/setup.sh first")


def describe_run(settings: Mapping[str, str], url: str) -> dict[str, str]:
    """Returns what `make chat` needs to know. Each run has its own user, so that it starts without memories."""
    return {
        "CHAT_URL": url,
        "CHAT_USER": f"demo-{secrets.token_hex(4)}",
        "JWT_SECRET": settings["JWT_SECRET"],
        "JWT_ISSUER": settings.get("JWT_ISSUER", ""),
        "JWT_AUDIENCE": settings.get("JWT_AUDIENCE", ""),
        "PID": str(os.getpid()),
    }


def remove_own_env() -> None:
    # The file of another run stays: a second run in the same folder is refused, and ends here too.
    if client.read_env(client.ENV_FILE).get("PID") == str(os.getpid()):
        client.ENV_FILE.unlink()


# --- processes ------------------------------------------------------------------------------------------------


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into `Stopped`, but never between starting a process and recording it."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        self._numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in self._numbers:
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._held:
            self._pending = True
        else:
            raise Stopped

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._pending:
            raise Stopped

    def ignore(self) -> None:
        """Ignores all further signals, so that nothing interrupts the shutdown."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)


@dataclass
class Server:
    """A process that serves until it is stopped, in a process group of its own."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class Identity:
    """A process, identified by its number and its start time, because numbers are reused."""

    pid: int
    began: str


class Servers:
    """The processes that this run started, and their descendants."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._servers: list[Server] = []
        self._descendants: set[Identity] = set()
        self._functions_log: BinaryIO | None = None
        self._last_read = b""

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> int:
        """Runs a command that shows its own progress, and returns its exit status."""
        with self._signals.held():
            process = subprocess.Popen(
                command, cwd=ROOT, env=dict(env), stdin=subprocess.DEVNULL, start_new_session=True
            )
            self._servers.append(Server(command[0], process, RUN))
        status = process.wait()
        self._servers.pop()
        return status

    def start(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> int:
        """Starts a server with its output in `log`, and returns its process id."""
        log.parent.mkdir(exist_ok=True)
        # Removed rather than truncated: another run may still write to the old file.
        log.unlink(missing_ok=True)
        with open(log, "wb") as output, self._signals.held():
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=END_WITH_PARENT,
            )
            self._servers.append(Server(name, process, log))
        return process.pid

    def read_functions_log(self) -> None:
        """Makes `check` detect functions that die, too."""
        self._functions_log = open(FUNCTIONS_LOG, "rb")  # noqa: SIM115 - it stays open until the process ends

    def check(self) -> None:
        """Raises Failure if a server or a function has stopped."""
        for server in self._servers:
            if server.process.poll() is not None:
                raise Failure(f"{server.name} has stopped", server.log)
        # When a function dies, `watch` goes on, but it neither restarts the function nor answers its requests.
        if self._functions_log:
            news = self._functions_log.read()
            if b"ERROR command " in self._last_read + news:
                raise Failure("a function has stopped", FUNCTIONS_LOG)
            self._last_read = (self._last_read + news)[-64:]

    def watch(self) -> None:
        """Checks all servers every 0.5 s. Ends only with an exception."""
        while True:
            self.check()
            time.sleep(0.5)

    def remember_descendants(self) -> None:
        """Records the functions: they have sessions of their own, so signals to the group of `watch` miss them."""
        pids = {server.process.pid for server in self._servers}
        self._descendants |= descendants(pids)

    def stop(self) -> None:
        """Stops everything; the functions first, so that their last writes still reach Redis."""
        self.remember_descendants()
        for server in reversed(self._servers):
            signal_group(server.process.pid, signal.SIGTERM)
            try:
                server.process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                signal_group(server.process.pid, signal.SIGKILL)
                server.process.wait()
        deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
        while alive(self._descendants) and time.monotonic() < deadline:
            time.sleep(0.05)
        for identity in alive(self._descendants):
            with suppress(ProcessLookupError):
                os.kill(identity.pid, signal.SIGKILL)


def descendants(pids: set[int]) -> set[Identity]:
    table = process_table()
    found: set[Identity] = set()
    front = set(pids)
    while front:
        children = {identity for identity, parent in table if parent in front} - found
        found |= children
        front = {identity.pid for identity in children}
    return found


def alive(identities: set[Identity]) -> set[Identity]:
    return identities & {identity for identity, _ in process_table()} if identities else set()


def process_table() -> list[tuple[Identity, int]]:
    """Returns every process with its parent's number, except zombies."""
    table = []
    if Path("/proc/self/stat").exists():
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name is in parentheses and may contain any character; the state is the first field after it.
                fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                table.append((Identity(int(path.parent.name), fields[19]), int(fields[1])))
        return table
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, parent, state, began = line.split(None, 3)
        if not state.startswith("Z"):
            table.append((Identity(int(pid), began), int(parent)))
    return table


def signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def end_with_parent() -> None:
    """Runs in a new process, on Linux: makes the kernel end it if this script is killed and cannot clean up."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


# What a process that this script starts runs first (`preexec_fn`). Other systems than Linux have nothing like it.
END_WITH_PARENT = end_with_parent if sys.platform == "linux" else None


# --- the servers ----------------------------------------------------------------------------------------------


def build(servers: Servers, settings: Mapping[str, str]) -> None:
    """Builds what `watch` will run, with the same command, so that the first request does not wait for the build.

    Uses the dev profile, as `make test` does, so that both share one build. A release build with link-time
    optimisation takes minutes and saves milliseconds that a local conversation does not show.
    """
    say("Building the functions.")
    if servers.run(["cargo", "build", "--bins", "--locked"], settings):
        raise Failure("the functions do not compile; see the compiler's messages above")


def start_redis(servers: Servers, settings: dict[str, str]) -> None:
    if settings.get("REDIS_URL"):
        say("Redis: the server in REDIS_URL.")
        return
    directory = RUN / "redis"
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    servers.start("Redis", [*command, "--save", "", "--appendonly", "no", "--loglevel", "warning"], REDIS_LOG, settings)
    settings["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not redis_answers(port):
        servers.check()
        if time.monotonic() > deadline:
            raise Failure("Redis does not answer", REDIS_LOG)
        time.sleep(0.02)
    say(f"Redis: 127.0.0.1:{port}, in memory only.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def redis_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def start_functions(servers: Servers, settings: Mapping[str, str], port: int) -> None:
    model = settings.get("LLM_MODEL") if settings["LLM_PROVIDER"] == "openai" else "none; the built-in echo replies"
    say(f"Model: {model}.")
    command = [str(CARGO_LAMBDA), "lambda", "watch", "--invoke-address", "127.0.0.1", "--invoke-port", str(port)]
    # Edits during a conversation must not restart the functions.
    command += ["--ignore-changes", "--locked", "--quiet", "--concurrency", str(INSTANCES_PER_FUNCTION)]
    # RUST_LOG sets the log level of `watch` itself; the functions ignore it. The log thus holds their lines and its
    # errors.
    servers.start("cargo lambda watch", command, FUNCTIONS_LOG, {"RUST_LOG": "warn,watchexec=off", **settings})
    servers.read_functions_log()


def routes() -> dict[str, tuple[str, str]]:
    """Returns a method and a path that reach each function that `cargo lambda watch` serves, from Cargo.toml."""
    command = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return routes_of(metadata["metadata"]["lambda"]["watch"]["router"])


def routes_of(router: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Returns a method and a path for each function of a router. A path names one function, or one for each method."""
    found: dict[str, tuple[str, str]] = {}
    for path, behind in router.items():
        # A function that serves its path alone gets every method, and refuses those that it does not support.
        several = [{"method": "GET", "function": behind}] if isinstance(behind, str) else behind
        for one in several:
            found.setdefault(one["function"], (one["method"], path))
    return found


def wait_for_functions(servers: Servers, url: str) -> None:
    chat = Chat(url, token="")
    for name, (method, path) in routes().items():
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            servers.check()
            try:
                # A function refuses a request without a token, and so shows that it runs.
                if chat.status(method, path, timeout_seconds=2):
                    break
            except ChatError:
                pass
            if time.monotonic() > deadline:
                raise Failure(f"{name} does not answer", FUNCTIONS_LOG)
            time.sleep(0.05)
    servers.remember_descendants()
    say(f"Functions: {url}\n")


# --- the page -------------------------------------------------------------------------------------------------


def prepare_page(settings: dict[str, str], url: str, port: int) -> page.Page | None:
    """Starts to build the page, and lets it read what the functions answer. Returns None if there will be none."""
    prepared = page.Page(url, port + 1)
    try:
        prepared.start_build(END_WITH_PARENT)
    except page.NoPage as reason:
        page.say_why_not(reason)
        prepared.stop()
        return None
    settings.setdefault("CORS_ALLOWED_ORIGINS", prepared.origin)
    return prepared


def serve_page(prepared: page.Page | None) -> str | None:
    """Returns the address of the page, from now on."""
    if not prepared:
        return None
    try:
        prepared.serve()
    except page.NoPage as reason:
        page.say_why_not(reason)
        return None
    return prepared.origin


# --- the conversation -----------------------------------------------------------------------------------------


@dataclass
class Turn:
    """The outcome of one turn."""

    message: str
    reply: str
    memory: str
    history_messages: int
    saved: bool
    first_token_ms: float


def take_turn(chat: Chat, message: str) -> Turn:
    turn = Turn(message, "", "", -1, False, 0.0)
    say(f"  you   {message}")
    say(f"  {CHARACTER:<6}", end="")
    began = time.monotonic()
    for event in chat.say(CHARACTER, message):
        if event.name == "start":
            turn.memory = str(event.data.get("memory"))
            turn.history_messages = int(event.data.get("history_messages", -1))
        elif event.name == "error":
            raise Failure(f"the reply failed ({event.data.get('code')})", FUNCTIONS_LOG)
        elif event.data.get("done"):
            turn.saved = event.data.get("saved") is True
        else:
            turn.first_token_ms = turn.first_token_ms or (time.monotonic() - began) * 1000
            turn.reply += str(event.data.get("content", ""))
            say(str(event.data.get("content", "")), end="")
    say(
        f"\n        first token after {turn.first_token_ms:.0f} ms, memory {turn.memory}, "
        f"history_messages {turn.history_messages}, saved {str(turn.saved).lower()}\n"
    )
    return turn


def has_small_window(settings: Mapping[str, str]) -> bool:
    """Returns whether the context window is set, so that the first turn may not fit beside the second."""
    return any(settings.get(name) for name in ("CONTEXT_MAX_TOKENS", "CONTEXT_MAX_MESSAGES"))


def check_turns(turns: Sequence[Turn], echo: bool, whole: bool = True) -> list[str]:
    """Returns a description of everything that did not go as expected. `whole` says that the second turn must have the
    first in its prompt."""
    first, second = turns
    problems = []
    if second.memory != "ok":
        problems.append(f"memory was {second.memory or 'not reported'} in the second turn, not ok")
    if whole and second.history_messages != 2:
        problems.append(f"the second turn had {second.history_messages} history messages, not 2")
    problems += [f"turn {number} was not saved" for number, turn in enumerate(turns, 1) if not turn.saved]
    problems += [f"turn {number} had no reply" for number, turn in enumerate(turns, 1) if not turn.reply.strip()]
    if echo and whole and first.message not in second.reply:
        problems.append("the second reply does not show the first message")
    return problems


def check_log(log: str, run: Mapping[str, str], turns: Sequence[Turn]) -> list[str]:
    """Returns a description of everything private that the log contains, without repeating it."""
    private = {"the secret": run["JWT_SECRET"], "the user's id": run["CHAT_USER"]}
    for number, turn in enumerate(turns, 1):
        private[f"message {number}"] = turn.message
        private[f"reply {number}"] = turn.reply
    return [f"{name} is in the log" for name, text in private.items() if text and text in log]


def show_session(chat: Chat) -> None:
    say(f"  Session: {client.describe_session(chat.session(CHARACTER))}.\n")


def show_next_steps(run: Mapping[str, str], page_url: str | None) -> None:
    token = client.token_for(run)
    if page_url:
        # The token is in the fragment, which a browser sends to no server; the page takes it out of the address.
        say(f"Open this page to talk:\n\n  {page_url}/#token={token}\n")
    api = f"{run['CHAT_URL']}/api/v1/chat"
    authorization = '-H "Authorization: Bearer $TOKEN"'
    json_body = "-H 'Content-Type: application/json' -d"
    say("To chat in a terminal, run `make chat` in another one. Or paste these lines; the token is valid for a day:\n")
    say(f"TOKEN={token}")
    message = f'{{"character_id":"{CHARACTER}","message":"你好"}}'
    say(f"curl -N {api}/stream {authorization} {json_body} '{message}'")
    say(f"curl '{api}/session?character_id={CHARACTER}' {authorization}")
    patch = f'{{"character_id":"{CHARACTER}","state":"INACTIVE"}}'
    say(f"curl -X PATCH {api}/session {authorization} {json_body} '{patch}'")
    say(f"curl -X DELETE '{api}/history?character_id={CHARACTER}' {authorization}")
    say(f"\nServing; press Ctrl-C to stop. The functions log to {FUNCTIONS_LOG.relative_to(ROOT)}.")


def show_log_tail(log: Path | None) -> None:
    if log is None or not log.exists():
        return
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    if lines:
        say(f"Last lines of {log.relative_to(ROOT)}:")
        say("\n".join(f"  {line}" for line in lines))


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
