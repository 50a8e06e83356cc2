"""A small client of the chat API, shared by run.py and chat.py: tokens, server-sent events, problem+json.

It needs nothing but the standard library, so that trying the service needs nothing but Python.
"""

import base64
import codecs
import hashlib
import hmac
import http.client
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional
from urllib.parse import quote, urlsplit

ROOT = Path(__file__).resolve().parent.parent

# Where `make run` says how to reach it: KEY=VALUE lines, readable by their owner alone.
ENV_FILE = ROOT / ".run" / "env"

# A stream is never silent for longer than 15 s: the service sends a comment line by then.
STREAM_TIMEOUT_SECONDS = 40.0
REQUEST_TIMEOUT_SECONDS = 10.0
TOKEN_TTL_SECONDS = 86_400


class ChatError(Exception):
    """What went wrong, as one sentence that a person can read."""


class ApiError(ChatError):
    """The service refused the request and said why (problem+json)."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code}, HTTP {status})" if code else f"{detail} (HTTP {status})")
        self.status = status
        self.code = code


class NotReachable(ChatError):
    """Nobody answered, or the connection broke before an answer began."""


class StreamCut(ChatError):
    """The reply began, and ended before its final frame."""


# --- tokens ---------------------------------------------------------------------------------------------------


def make_token(
    secret: str,
    user: str,
    ttl_seconds: int = TOKEN_TTL_SECONDS,
    issuer: str = "",
    audience: str = "",
    now: Optional[float] = None,
) -> str:
    """An HS256 JWT (RFC 7515, 7519) that says who the user is."""
    issued_at = int(time.time() if now is None else now)
    claims: Dict[str, Any] = {"sub": user, "iat": issued_at, "exp": issued_at + ttl_seconds}
    if issuer:
        claims["iss"] = issuer
    if audience:
        claims["aud"] = audience
    signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
    signature = hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64url(signature)}"


def _segment(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


# --- server-sent events ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """One frame of the stream: its name and its parsed JSON."""

    name: str
    data: Dict[str, Any]


class SseParser:
    """Turns bytes into events, wherever the network cut them (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line = ""
        self._after_cr = False
        self._name = ""
        self._data: List[str] = []

    def feed(self, chunk: bytes) -> List[Event]:
        """The events that this chunk completes."""
        events: List[Event] = []
        for char in self._decoder.decode(chunk):
            if char == "\n" and self._after_cr:
                self._after_cr = False
                continue
            self._after_cr = char == "\r"
            if char not in "\r\n":
                self._line += char
                continue
            line, self._line = self._line, ""
            if line:
                self._take(line)
            else:
                events.extend(self._dispatch())
        return events

    def _take(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)

    def _dispatch(self) -> Iterator[Event]:
        name, data = self._name or "message", self._data
        self._name, self._data = "", []
        if not data:
            return
        try:
            value = json.loads("\n".join(data))
        except ValueError:
            raise ChatError(f"the service sent a {name} frame that is not valid JSON") from None
        if not isinstance(value, dict):
            raise ChatError(f"the service sent a {name} frame that is not a JSON object")
        yield Event(name, value)


# --- the API --------------------------------------------------------------------------------------------------


class Chat:
    """The service at one address, as one user."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ChatError(f"{url} is not an http or https address")
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token

    def say(self, character: str, message: str) -> Iterator[Event]:
        """Sends a message and yields the frames of the reply as they arrive, up to and including the last.

        Raises ApiError where the service refuses, NotReachable where there is none, StreamCut where the reply ends
        without a final frame. An `error` frame is not raised: it says whether the turn was saved.
        """
        body = {"character_id": character, "message": message}
        connection = self._connection(STREAM_TIMEOUT_SECONDS)
        try:
            response = self._send(connection, "POST", "/api/v1/chat/stream", body)
            if response.status != 200:
                raise _problem(response.status, _body(response))
            parser = SseParser()
            while True:
                try:
                    chunk = response.read1(65_536)
                except (http.client.HTTPException, OSError):
                    chunk = b""
                if not chunk:
                    raise StreamCut("the connection ended in the middle of the reply")
                for event in parser.feed(chunk):
                    yield event
                    if event.name == "error" or event.data.get("done"):
                        return
        finally:
            connection.close()

    def session(self, character: str) -> Dict[str, Any]:
        """What the service knows about the conversation."""
        return self._call("GET", f"/api/v1/chat/session?character_id={quote(character, safe='')}")

    def clear(self, character: str) -> Dict[str, Any]:
        """Forgets the conversation."""
        return self._call("DELETE", f"/api/v1/chat/history?character_id={quote(character, safe='')}")

    def status(self, method: str, path: str, timeout_seconds: float) -> int:
        """The status of a function's answer to a bare request; 0 where the answer is not a function's."""
        connection = self._connection(timeout_seconds)
        try:
            response = self._send(connection, method, path)
            kind = response.getheader("content-type", "")
            return response.status if response.status == 200 or kind.startswith("application/problem+json") else 0
        finally:
            connection.close()

    def _call(self, method: str, path: str) -> Dict[str, Any]:
        connection = self._connection(REQUEST_TIMEOUT_SECONDS)
        try:
            response = self._send(connection, method, path)
            body = _body(response)
            if response.status != 200:
                raise _problem(response.status, body)
        finally:
            connection.close()
        try:
            answer: Dict[str, Any] = json.loads(body)
        except ValueError:
            raise ChatError("the service answered with something that is not valid JSON") from None
        return answer

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=timeout_seconds)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Optional[Mapping[str, Any]] = None
    ) -> http.client.HTTPResponse:
        headers = {"accept": "text/event-stream, application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        payload = None
        if body is not None:
            headers["content-type"] = "application/json"
            payload = json.dumps(body, ensure_ascii=False).encode()
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, payload, headers)
            return connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise NotReachable(f"{self.url} does not answer ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError) or "timed out" in str(error):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "the connection was closed"


def _body(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except (http.client.HTTPException, OSError):
        raise NotReachable("the connection was closed in the middle of the answer") from None


def _problem(status: int, body: bytes) -> ApiError:
    try:
        problem = json.loads(body)
        detail = problem.get("detail") or problem.get("title")
        return ApiError(status, str(problem.get("code") or ""), str(detail or "the request was refused"))
    except (ValueError, AttributeError):
        return ApiError(status, "", "the request was refused")


# --- what `make run` leaves for `make chat` -------------------------------------------------------------------


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Replaces the file in one step; only its owner can read it, from the first byte on."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink() if temporary.exists() else None
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    temporary.replace(path)


def read_env(path: Path) -> Dict[str, str]:
    """The file's values; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}


def connect(values: Mapping[str, str]) -> Chat:
    """The service that a run described by `values` serves, as that run's user."""
    return Chat(values["CHAT_URL"], token_for(values))


def token_for(values: Mapping[str, str]) -> str:
    """A token that is valid for a day."""
    return make_token(
        values["JWT_SECRET"],
        values["CHAT_USER"],
        issuer=values.get("JWT_ISSUER", ""),
        audience=values.get("JWT_AUDIENCE", ""),
    )


# --- words ----------------------------------------------------------------------------------------------------


def describe_session(session: Mapping[str, Any]) -> str:
    """The session as one line."""
    minutes = int(session.get("expires_in") or 0) // 60
    last = time.strftime("%H:%M:%S", time.localtime(session.get("last_active_at") or 0))
    return (
        f"{session.get('state')}, {session.get('stored_messages')} messages stored "
        f"({session.get('message_count')} ever, {session.get('total_tokens')} tokens), "
        f"last active {last}, forgotten in {minutes // 60} h {minutes % 60} min"
    )
