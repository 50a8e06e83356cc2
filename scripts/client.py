"""A small client of the service for run.py, chat.py and character.py: tokens, server-sent events and problem+json.

It uses only the standard library, so that trying the service needs only Python.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import hmac
import http.client
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

ROOT = Path(__file__).resolve().parent.parent

# The folder of a run's files. RUN_FOLDER names another one, so that a second run of this clone, such as that of the
# client's tests, does not disturb the first.
RUN = ROOT / (os.environ.get("RUN_FOLDER") or ".run")
# The file in which `make run` stores its address and secret: KEY=VALUE lines, readable only by their owner.
ENV_FILE = RUN / "env"

# The service sends at least a comment line every 15 s, so a stream that is silent for longer than this is dead.
STREAM_TIMEOUT_SECONDS = 40.0
REQUEST_TIMEOUT_SECONDS = 10.0
# An event may be a file of many megabytes.
INVOKE_TIMEOUT_SECONDS = 60.0
# A lost stream is asked for again after each of these pauses, and from the first one on after each frame that came. In
# all they are longer than the service needs to find out that the process of a turn has died.
RESUME_PAUSES_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
TOKEN_TTL_SECONDS = 86_400

# The function that stores characters. It has no route: an event is its request.
PUT_CHARACTER = "put-character"


class ChatError(Exception):
    """What went wrong, as one sentence for the user."""


class ApiError(ChatError):
    """The service rejected the request with a reason (problem+json)."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({code}, HTTP {status})" if code else f"{detail} (HTTP {status})")
        self.status = status
        self.code = code


class NotReachable(ChatError):
    """No server answered, or the connection broke before a response began."""


class StreamCut(ChatError):
    """The reply began, but ended before its last frame, and could not be resumed."""


# --- tokens ---------------------------------------------------------------------------------------------------


def make_token(
    secret: str,
    user: str,
    ttl_seconds: int = TOKEN_TTL_SECONDS,
    issuer: str = "",
    audience: str = "",
    now: float | None = None,
) -> str:
    """Returns an HS256 JWT (RFC 7515, 7519) whose `sub` is the user."""
    issued_at = int(time.time() if now is None else now)
    claims: dict[str, Any] = {"sub": user, "iat": issued_at, "exp": issued_at + ttl_seconds}
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
    """One frame of the stream: its name, its parsed JSON, and the id with which a client can come back to its end."""

    name: str
    data: dict[str, Any]
    id: str = ""

    @property
    def is_last(self) -> bool:
        """Whether no frame of the turn follows."""
        return self.name == "error" or bool(self.data.get("done"))


class SseParser:
    """Parses events from a byte stream, however it is split into chunks (WHATWG HTML, section 9.2.6)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._line = ""
        self._after_cr = False
        self._name = ""
        self._id = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Returns the events that this chunk completes."""
        events: list[Event] = []
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
        elif field == "id" and "\0" not in value:
            # It holds for later events too, until another one comes.
            self._id = value

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
        yield Event(name, value, self._id)


# --- the API --------------------------------------------------------------------------------------------------


class Chat:
    """The service at one address, used as one user."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ChatError(f"{url} is not an http or https address")
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token

    def say(self, character: str, message: str, greeting: int | None = None) -> Iterator[Event]:
        """Sends a message and yields the frames of the reply as they arrive, up to and including the last.

        `greeting` is the number of the character's greeting that the message answers.

        A connection that is lost is made again. Before the first frame, the request is repeated once: by its key the
        service recognises it as the same one. After that, the reply goes on where it was cut. Raises ApiError if the
        service rejects the request, NotReachable if there is no service, and StreamCut if the reply ends without a last
        frame and cannot be resumed. An `error` frame is not raised, because it reports whether the turn was saved.
        """
        body: dict[str, Any] = {"character_id": character, "message": message}
        if greeting is not None:
            body["greeting"] = greeting
        payload = json.dumps(body, ensure_ascii=False).encode()
        key = {"idempotency-key": f'"{uuid.uuid4()}"'}
        for is_repeated in (False, True):
            turn, seen = "", ""
            began = False
            try:
                for event in self._stream("POST", "/api/v1/chat/stream", key, payload):
                    began = True
                    if event.name == "start" and event.data.get("resumable"):
                        turn = str(event.data.get("turn_id"))
                    seen = event.id
                    yield event
                    if event.is_last:
                        return
            except NotReachable:
                if is_repeated:
                    raise
            if began:
                break
        if not turn:
            raise StreamCut("the connection ended mid-reply")
        yield from self.resume(character, turn, seen)

    def resume(self, character: str, turn: str = "", seen: str = "") -> Iterator[Event]:
        """Yields the frames of a turn that follow the frame with the id `seen`, or all, up to and including the last.

        Without a turn it is the newest one that runs, and nothing if none does. Raises the same errors as `say`.
        """
        failure = ""
        pauses = iter(RESUME_PAUSES_SECONDS)
        while (pause := next(pauses, None)) is not None:
            time.sleep(pause)
            path = _path("stream", character, turn_id=turn)
            try:
                found = False
                for event in self._stream("GET", path, {"last-event-id": seen} if seen else {}):
                    found = True
                    if event.name == "start":
                        turn = str(event.data.get("turn_id"))
                    seen, pauses = event.id, iter(RESUME_PAUSES_SECONDS)
                    yield event
                    if event.is_last:
                        return
                if not found and not turn:
                    return
            except ApiError as error:
                if error.status < 500 or not turn:
                    raise
                failure = f", and coming back failed: {error}"
            except NotReachable as error:
                if not turn:
                    raise
                failure = f", and coming back failed: {error}"
        raise StreamCut(f"the connection ended mid-reply{failure}")

    def stop(self, character: str, turn: str = "") -> str:
        """Asks a turn to stop, or the newest one that runs, and returns its id."""
        return str(self._call("DELETE", _path("stream", character, turn_id=turn)).get("turn_id"))

    def session(self, character: str) -> dict[str, Any]:
        """Returns the session of the conversation."""
        return self._call("GET", _path("session", character))

    def history(self, character: str) -> dict[str, Any]:
        """Returns the newest messages of the conversation, and the character's greeting if there are none."""
        return self._call("GET", _path("history", character))

    def clear(self, character: str) -> dict[str, Any]:
        """Clears the conversation."""
        return self._call("DELETE", _path("history", character))

    def stored_characters(self) -> Iterator[str]:
        """Yields the ids of the characters that put-character has stored, from the service that `make run` serves."""
        event: dict[str, Any] = {"action": "list"}
        while True:
            answer = self.invoke(PUT_CHARACTER, json.dumps(event).encode())
            yield from map(str, answer.get("characters") or ())
            event["after"] = answer.get("next")
            if not event["after"]:
                return

    def invoke(self, function: str, event: bytes) -> dict[str, Any]:
        """Sends an event to a function that `make run` serves, and returns its answer.

        Raises ApiError if the event does not reach the function, or if the function refuses it: it then answers with a
        problem document.
        """
        answer = self._call("POST", f"/2015-03-31/functions/{function}/invocations", event, INVOKE_TIMEOUT_SECONDS)
        if "code" in answer:
            raise _refusal(int(answer.get("status") or 0), answer)
        return answer

    def status(self, method: str, path: str, timeout_seconds: float) -> int:
        """Returns the status of a response to a request without a body, or 0 if the response is not from a function."""
        connection = self._connection(timeout_seconds)
        try:
            response = self._send(connection, method, path)
            kind = response.getheader("content-type", "")
            return response.status if response.status == 200 or kind.startswith("application/problem+json") else 0
        finally:
            connection.close()

    def _stream(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Iterator[Event]:
        """Yields the frames of a response until it ends or is cut. A response without a body has none."""
        connection = self._connection(STREAM_TIMEOUT_SECONDS)
        try:
            response = self._send(connection, method, path, body, headers)
            if response.status == 204:
                return
            if response.status != 200:
                raise _rejection(response.status, _body(response))
            parser = SseParser()
            while True:
                try:
                    chunk = response.read1(65_536)
                except (http.client.HTTPException, OSError):
                    chunk = b""
                if not chunk:
                    return
                yield from parser.feed(chunk)
        finally:
            connection.close()

    def _call(
        self, method: str, path: str, body: bytes | None = None, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> dict[str, Any]:
        """Returns the JSON object of a response. Raises ApiError if the status reports a failure."""
        connection = self._connection(timeout_seconds)
        try:
            response = self._send(connection, method, path, body)
            answer = _body(response)
            if response.status not in (200, 202):
                raise _rejection(response.status, answer)
        finally:
            connection.close()
        return _object(answer)

    def _connection(self, timeout_seconds: float) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=timeout_seconds)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        more_headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = {"accept": "text/event-stream, application/json", **(more_headers or {})}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        if body is not None:
            headers["content-type"] = "application/json"
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
            return connection.getresponse()
        except (http.client.HTTPException, OSError) as error:
            raise NotReachable(f"{self.url} does not answer ({_reason(error)})") from None


def _path(name: str, character: str, **more: str) -> str:
    """Returns the path of a resource of the conversation. Parameters without a value are left out."""
    query = {"character_id": character, **{name: value for name, value in more.items() if value}}
    return f"/api/v1/chat/{name}?{urlencode(query, quote_via=quote, safe='')}"


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
        raise NotReachable("the connection was closed mid-response") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        raise ChatError("the service sent a response that is not valid JSON") from None
    if not isinstance(value, dict):
        raise ChatError("the service sent a response that is not a JSON object")
    return value


def _rejection(status: int, body: bytes) -> ApiError:
    """Returns the error of a response whose body should be a problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    return _refusal(status, problem if isinstance(problem, dict) else {})


def _refusal(status: int, problem: Mapping[str, Any]) -> ApiError:
    detail = problem.get("detail") or problem.get("title") or "the request was rejected"
    return ApiError(status, str(problem.get("code") or ""), str(detail))


# --- the file that `make run` writes for `make chat` and `make character` -------------------------------------


def write_env(path: Path, values: Mapping[str, str]) -> None:
    """Replaces the file atomically. Only its owner can read it, from the moment it is created."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{name}={value}\n" for name, value in values.items())
    temporary.replace(path)


def read_env(path: Path) -> dict[str, str]:
    """Returns the values in the file, or an empty dictionary if there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {name: value for name, found, value in (line.partition("=") for line in lines) if found}


def connect(values: Mapping[str, str]) -> Chat:
    """Returns a client of the run that `values` describes, as the run's user."""
    return Chat(values["CHAT_URL"], token_for(values))


def token_for(values: Mapping[str, str]) -> str:
    """Returns a token for the run's user that is valid for a day."""
    return make_token(
        values["JWT_SECRET"],
        values["CHAT_USER"],
        issuer=values.get("JWT_ISSUER", ""),
        audience=values.get("JWT_AUDIENCE", ""),
    )


# --- words ----------------------------------------------------------------------------------------------------


def describe_session(session: Mapping[str, Any]) -> str:
    """Returns the session as one line of text."""
    minutes = int(session.get("expires_in") or 0) // 60
    last = time.strftime("%H:%M:%S", time.localtime(session.get("last_active_at") or 0))
    return (
        f"{session.get('state')}, {session.get('stored_messages')} messages stored "
        f"({session.get('message_count')} ever, {session.get('total_tokens')} tokens), "
        f"last active {last}, expires in {minutes // 60} h {minutes % 60} min"
    )
