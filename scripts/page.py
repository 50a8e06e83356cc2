"""The page of web/ for a local run: builds it when it has changed, and serves it beside the functions.

The page is built while the functions are, so that a run hardly takes longer. It is served from memory by a thread of
this process, and only to this machine. Whatever stands in its way is one sentence for the user, never a failed run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mimetypes
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from client import ROOT, RUN, Chat, ChatError

WEB = ROOT / "web"
DIST = WEB / "dist"
LOG = RUN / "page.log"
SAMPLES = ["luna", "kai", "mei"]

# The digest of what the page was built from. `make clean` removes it with the page.
STAMP = DIST / ".stamp"
# What Vite needs, as `devEngines` in web/package.json has it.
NODE = "Node 20.19, or 22.12 or later"
# npm may have to download everything first.
BUILD_TIMEOUT_SECONDS = 300.0


class NoPage(Exception):
    """Why the page cannot be served, as one sentence."""


class Page:
    """The page of one run: first its address, then its build, then its server."""

    def __init__(self, api: str, port: int) -> None:
        """Takes the port, or any other if that is in use, because the functions must know the page's address."""
        self._api = api
        self._build: subprocess.Popen[bytes] | None = None
        self._stamp = ""
        self._serves = False
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler)
        except (OSError, OverflowError):
            self._server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
        self._server.daemon_threads = True
        self.origin = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start_build(self, preexec: Callable[[], None] | None) -> None:
        """Starts to build the page, if it has changed since it was built. Raises NoPage if that cannot work."""
        if not (WEB / "package.json").exists():
            raise NoPage("the folder web/ is missing")
        self._stamp = stamp()
        if built_stamp() == self._stamp:
            return
        require_node()
        commands = [["npm", "run", "--silent", "page"]]
        if not packages_are_current():
            commands.insert(0, ["npm", "ci", "--no-audit", "--no-fund", "--silent"])
        LOG.parent.mkdir(parents=True, exist_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        with open(LOG, "wb") as output:
            self._build = subprocess.Popen(
                ["sh", "-c", " && ".join(" ".join(command) for command in commands)],
                cwd=WEB,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=preexec,
            )

    def serve(self) -> None:
        """Waits for the build and serves the page until the process ends. Raises NoPage if the build failed."""
        if self._build:
            try:
                status = self._build.wait(BUILD_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self.stop()
                raise NoPage("it took too long to build") from None
            self._build = None
            if status:
                raise NoPage(f"it could not be built; {LOG.relative_to(ROOT)} says why")
            STAMP.write_text(self._stamp, encoding="utf-8")
        served = files(DIST, self._api)
        self._server.RequestHandlerClass = handler(served, self._api, policy(served["/index.html"][1].decode()))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._serves = True

    def stop(self) -> None:
        """Ends the build, if it still runs, and the server, and frees its port."""
        if self._build and self._build.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._build.pid, signal.SIGTERM)
            self._build.wait()
        if self._serves:
            self._server.shutdown()
        self._server.server_close()


def require_node() -> None:
    """Raises NoPage unless Node is here, and new enough."""
    if not shutil.which("node") or not shutil.which("npm"):
        raise NoPage(f"it needs {NODE}, with npm, which was not found")
    found = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    try:
        version = tuple(int(part) for part in found.lstrip("v").split(".")[:2])
    except ValueError:
        version = (0, 0)
    if not ((20, 19) <= version < (21, 0) or version >= (22, 12)):
        raise NoPage(f"it needs {NODE}, and this is {found or 'none'}")


def packages_are_current() -> bool:
    """Returns whether npm has installed what the lock file names. npm leaves a copy of it when it has."""
    installed = WEB / "node_modules" / ".package-lock.json"
    if not installed.exists():
        return False
    newest = max((WEB / name).stat().st_mtime for name in ("package.json", "package-lock.json"))
    return installed.stat().st_mtime >= newest


def stamp() -> str:
    """Returns a digest of everything that the page is built from."""
    digest = hashlib.sha256()
    paths = [WEB / "package.json", WEB / "package-lock.json"]
    for folder in ("page", "src"):
        paths += sorted(path for path in (WEB / folder).rglob("*") if path.is_file())
    for path in paths:
        digest.update(f"{path.relative_to(WEB)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def built_stamp() -> str:
    """Returns the digest of what the page was built from; empty if it was not, or not by a run."""
    built = (DIST / "index.html").exists() and STAMP.exists()
    return STAMP.read_text(encoding="utf-8") if built else ""


# --- serving --------------------------------------------------------------------------------------------------


def policy(html: str) -> str:
    """Returns the content security policy to send with a page: its own, and what works in a header only."""
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    if not found:
        raise NoPage("it has no content security policy")
    return f"{found[1]}; frame-ancestors 'none'"


def files(folder: Path, api: str) -> dict[str, tuple[str, bytes]]:
    """Returns the type and the content of each path of the page, which asks the functions at `api`."""
    found: dict[str, tuple[str, bytes]] = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("."):
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            # The types of a system may be old, and a browser runs no module of another type.
            kind = {".js": "text/javascript", ".svg": "image/svg+xml"}.get(path.suffix, kind)
            found[f"/{name}"] = (kind, path.read_bytes())
    kind, html = found["/index.html"]
    # The build does not know where the functions will be, so neither the page nor its policy has the address.
    html = html.replace(b'name="chat-api" content=""', f'name="chat-api" content="{api}"'.encode())
    html = html.replace(b"connect-src 'self'", f"connect-src 'self' {api}".encode())
    found["/index.html"] = (f"{kind}; charset=utf-8", html)
    found["/"] = found["/index.html"]
    return found


def config(api: str) -> bytes:
    """Returns config.json: the characters to offer besides those of the user's sessions.

    They are the samples and those that are stored now, or the samples alone if the functions do not answer: the page
    itself shows what is wrong with the service. The answer may take as long as a function takes to start, and the page
    shows everything else meanwhile.
    """
    stored: list[str] = []
    with contextlib.suppress(ChatError):
        stored = list(Chat(api, token="").stored_characters())
    return json.dumps({"characters": list(dict.fromkeys([*SAMPLES, *stored]))}).encode()


def handler(served: Mapping[str, tuple[str, bytes]], api: str, csp: str) -> type[BaseHTTPRequestHandler]:
    """Returns a handler of requests for the files and for config.json, and for nothing else."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        server_version = "page"
        sys_version = ""
        # A connection that a browser keeps for later holds a thread, not the run.
        timeout = 60

        def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
            path = urlsplit(self.path).path
            found = ("application/json", config(api)) if path == "/config.json" else served.get(path)
            kind, content = found or ("text/plain; charset=utf-8", b"Not found.\n")
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", csp)
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Logs nothing: what the browser asks for is no news."""

        def handle(self) -> None:
            # A browser that leaves in the middle of a response is no defect.
            with contextlib.suppress(ConnectionError, TimeoutError):
                super().handle()

    return Handler


def is_off(environ: Mapping[str, str]) -> bool:
    """Returns whether the caller wants no page: PAGE=off."""
    return environ.get("PAGE", "").lower() in ("off", "0", "false", "no")


def say_why_not(reason: NoPage) -> None:
    print(f"The page is not served: {reason}.", file=sys.stdout, flush=True)
