"""Tests of the scripts, without a build and without Redis: a small HTTP server sends what each test scripted."""

import base64
import contextlib
import hashlib
import hmac
import io
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import character
import chat
import client
import event
import run
from client import Event, SseParser

SCRIPTS = Path(__file__).resolve().parent

START = 'event: start\ndata: {"turn_id":"t","memory":"ok","history_messages":2}\n\n'
# As the service sends them where the turn is recorded.
RESUMABLE = (
    'id: 0\nevent: start\ndata: {"turn_id":"turn-1","memory":"ok","history_messages":2,"resumable":true}\n\n',
    'id: 6\nevent: message\ndata: {"content":"你好","done":false}\n\n',
    'id: 9\nevent: message\ndata: {"content":"呀","done":false}\n\n',
    'id: done\nevent: message\ndata: {"content":"","done":true,"finish_reason":"%s","saved":true}\n\n',
)
DELTA = 'event: message\ndata: {"content":"%s","done":false}\n\n'
DONE = 'event: message\ndata: {"content":"","done":true,"finish_reason":"stop","saved":true}\n\n'
ERROR = 'event: error\ndata: {"error":"服务暂时不可用，请稍后重试","code":"upstream_timeout","saved":%s}\n\n'
SESSION = {
    "character_id": "luna",
    "state": "ACTIVE",
    "last_active_at": 1_700_000_000,
    "message_count": 6,
    "session_start": 1_700_000_000,
    "total_tokens": 99,
    "stored_messages": 4,
    "expires_in": 86_340,
}
# The history of a conversation that has not begun, with a character that begins it.
GREETED = {"character_id": "luna", "messages": [], "has_more": False, "greeting": "末班船刚开走。\n\n坐一会儿？"}


class SseParserTest(unittest.TestCase):
    def test_any_chunking_yields_the_same_events(self) -> None:
        text = (
            '\ufeff: ping\n\nevent: start\ndata: {"memory":"ok"}\n\n'
            'event: message\r\ndata: {"content":"你好，🌧"}\r\n\r\n'
            'data: {"content":\rdata:"two lines"}\rid: 7\r\r'
            "event: nothing\n\n: ping\n\n"
            'event: message\ndata: {"done":true}\n\n'
            'event: message\ndata: {"never":"completed"}\n'
        )
        expected = [
            Event("start", {"memory": "ok"}),
            Event("message", {"content": "你好，🌧"}),
            Event("message", {"content": "two lines"}, id="7"),
            # An id holds until the next one comes.
            Event("message", {"done": True}, id="7"),
        ]
        body = text.encode()
        self.assertEqual(SseParser().feed(body), expected)
        dice = random.Random(1)
        chunkings = [[body[i : i + 1] for i in range(len(body))]]
        for _ in range(200):
            cuts = sorted(dice.sample(range(len(body)), dice.randint(1, 20)))
            chunkings.append([body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)])])
        for chunks in chunkings:
            parser = SseParser()
            self.assertEqual([event for chunk in chunks for event in parser.feed(chunk)], expected)

    def test_an_event_is_returned_as_soon_as_its_last_byte_arrives(self) -> None:
        parser = SseParser()
        self.assertEqual(parser.feed(b'data: {"content":"a"}\n'), [])
        self.assertEqual(parser.feed(b"\n"), [Event("message", {"content": "a"})])

    def test_a_frame_that_is_not_json_is_a_readable_error(self) -> None:
        with self.assertRaisesRegex(client.ChatError, "not valid JSON"):
            SseParser().feed(b"data: <html>\n\n")


class TokenTest(unittest.TestCase):
    def test_a_token_is_signed_and_names_the_user_and_the_expiry(self) -> None:
        token = client.make_token("secret", "小雨", ttl_seconds=60, issuer="me", audience="you", now=1000.9)
        header, claims, signature = token.split(".")
        self.assertEqual(self.decode(header), {"alg": "HS256", "typ": "JWT"})
        self.assertEqual(self.decode(claims), {"sub": "小雨", "iat": 1000, "exp": 1060, "iss": "me", "aud": "you"})
        digest = hmac.new(b"secret", f"{header}.{claims}".encode(), hashlib.sha256).digest()
        self.assertEqual(base64.urlsafe_b64decode(signature + "="), digest)
        self.assertNotIn("=", token)

    def test_a_token_equals_the_one_that_openssl_signs(self) -> None:
        # Signed with `openssl dgst -sha256 -hmac`.
        token = client.make_token("s" * 32, "user_123", ttl_seconds=86_400, now=1_700_000_000)
        self.assertEqual(token.split(".")[2], "Hw9Z1CiXD3fdZq3woNPgkTvC9C5NqenFEffERF3dpKo")

    @staticmethod
    def decode(segment: str) -> Any:
        return json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))


class EnvFileTest(unittest.TestCase):
    def test_only_the_owner_can_read_the_file_and_it_reads_back(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "run" / "env"
            self.assertEqual(client.read_env(path), {})
            client.write_env(path, {"A": "1=2", "B": ""})
            client.write_env(path, {"A": "3=4", "B": ""})
            self.assertEqual(client.read_env(path), {"A": "3=4", "B": ""})
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            self.assertEqual([entry.name for entry in path.parent.iterdir()], ["env"])


class RunTest(unittest.TestCase):
    """run.py as a program, up to the point where it would start a server."""

    def test_a_port_in_use_is_reported_with_an_alternative(self) -> None:
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            port = holder.getsockname()[1]
            status, output = self.run_script(PORT=str(port))
        self.assertEqual(status, 1)
        self.assertRegex(output, rf"port {port} is in use; choose another: PORT=\d+ make run")

    def test_an_invalid_port_is_refused(self) -> None:
        for port in ("0", "65536", "http", "-1"):
            status, output = self.run_script(PORT=port)
            self.assertEqual(status, 1)
            self.assertIn("PORT must be a number from 1 to 65535", output)

    def test_a_missing_variable_of_the_model_is_named(self) -> None:
        model = {"LLM_BASE_URL": "http://127.0.0.1:1/v1", "LLM_API_KEY": "k", "LLM_MODEL": "m"}
        for missing in model:
            given = {name: value for name, value in model.items() if name != missing}
            status, output = self.run_script(**given)
            self.assertEqual(status, 1)
            self.assertIn(f"{missing} is missing", output)

    def test_an_empty_key_is_for_a_server_that_needs_none(self) -> None:
        settings = run.function_settings({"LLM_BASE_URL": "http://127.0.0.1:1", "LLM_API_KEY": "", "LLM_MODEL": "m"})
        self.assertEqual((settings["LLM_PROVIDER"], settings["LLM_API_KEY"]), ("openai", "none"))

    def test_settings_for_tokens_signed_elsewhere_are_refused(self) -> None:
        for name, value in (("JWT_SECRET_SECRET_ARN", "arn:…"), ("AUTH_TRUST_AUTHORIZER", "true")):
            with self.assertRaisesRegex(run.Failure, name):
                run.function_settings({name: value})
        self.assertTrue(run.function_settings({"AUTH_TRUST_AUTHORIZER": "false"})["JWT_SECRET"])

    def test_a_secret_arn_replaces_the_key(self) -> None:
        model = {"LLM_BASE_URL": "http://127.0.0.1:1", "LLM_MODEL": "m", "LLM_API_KEY_SECRET_ARN": "arn:…"}
        self.assertNotIn("LLM_API_KEY", run.function_settings(model))
        with self.assertRaisesRegex(run.Failure, "LLM_API_KEY"):
            run.function_settings({name: model[name] for name in ("LLM_BASE_URL", "LLM_MODEL")})

    def test_without_a_model_the_echo_replies_and_other_settings_pass_through(self) -> None:
        settings = run.function_settings({"LOG_LEVEL": "debug", "CONTEXT_MAX_MESSAGES": "9"})
        self.assertEqual(settings["LLM_PROVIDER"], "echo")
        self.assertEqual((settings["LOG_LEVEL"], settings["LOG_FORMAT"]), ("debug", "text"))
        self.assertEqual((settings["METRICS"], run.function_settings({"METRICS": "emf"})["METRICS"]), ("off", "emf"))
        self.assertEqual(settings["CONTEXT_MAX_MESSAGES"], "9")
        self.assertNotEqual(settings["JWT_SECRET"], run.function_settings({})["JWT_SECRET"])

    def test_an_unexpected_conversation_is_described(self) -> None:
        first = run.Turn("我叫小雨。", "你好", "empty", 0, True, 1.0)
        second = run.Turn("？", "你说过：我叫小雨。", "ok", 2, True, 1.0)
        self.assertEqual(run.check_turns([first, second], echo=True), [])
        without = run.Turn("？", "好", "ok", 0, True, 1.0)
        self.assertEqual(run.check_turns([first, without], echo=True, whole=False), [])
        forgetful = run.Turn("？", "什么？", "unavailable", 0, False, 1.0)
        self.assertEqual(
            run.check_turns([first, forgetful], echo=True),
            [
                "memory was unavailable in the second turn, not ok",
                "the second turn had 0 history messages, not 2",
                "turn 2 was not saved",
                "the second reply does not show the first message",
            ],
        )
        self.assertEqual(len(run.check_turns([first, forgetful], echo=False)), 3)

    def test_a_context_window_that_is_set_may_be_too_small_for_the_first_turn(self) -> None:
        for name in ("CONTEXT_MAX_TOKENS", "CONTEXT_MAX_MESSAGES"):
            self.assertTrue(run.has_small_window(run.function_settings({name: "9"})), name)
            self.assertFalse(run.has_small_window(run.function_settings({name: ""})), name)

    def test_private_text_in_the_log_is_reported_and_not_repeated(self) -> None:
        turns = [run.Turn("我叫小雨。", "你好", "empty", 0, True, 1.0), run.Turn("？", "", "ok", 2, True, 1.0)]
        described = {"JWT_SECRET": "a-secret", "CHAT_USER": "demo-1"}
        self.assertEqual(run.check_log("WARN memory could not be read", described, turns), [])
        log = "DEBUG got 我叫小雨。 from demo-1 by a-secret"
        self.assertEqual(
            run.check_log(log, described, turns),
            ["the secret is in the log", "the user's id is in the log", "message 1 is in the log"],
        )

    def test_each_function_is_reached_by_a_method_that_its_path_gives_it(self) -> None:
        router = {
            "/history": "clear",
            "/stream": [{"method": "POST", "function": "chat"}, {"method": "GET", "function": "chat"}]
            + [{"method": "DELETE", "function": "stop"}],
        }
        expected = {"clear": ("GET", "/history"), "chat": ("POST", "/stream"), "stop": ("DELETE", "/stream")}
        self.assertEqual(run.routes_of(router), expected)

    def run_script(self, **environ: str) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "PORT"))}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            kept["PORT"] = str(probe.getsockname()[1])
        # Without this, a test whose check is missing would start the service.
        kept["PATH"] = ""
        # In a folder of its own, so that a run in this one does not matter.
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, str(copy_of_run(Path(folder)))],
                env={**kept, **environ},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
        self.assertEqual(done.stderr, "")
        return done.returncode, done.stdout


class OneRunTest(unittest.TestCase):
    """run.py as a program, up to the build, by a `cargo` that takes its time."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = Path(directory.name)
        self.script = copy_of_run(self.folder)
        cargo = self.folder / "cargo"
        cargo.write_text('#!/bin/sh\ncd "${0%/*}"\n[ -e fails ] && exit 1\necho $$ >building\nexec sleep 60\n')
        cargo.chmod(0o755)
        cargo_lambda = self.folder / ".tools" / "venv" / "bin" / "cargo-lambda"
        cargo_lambda.parent.mkdir(parents=True)
        cargo_lambda.touch()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def test_a_second_run_in_the_same_folder_names_the_first_and_one_after_it_was_killed_starts(self) -> None:
        first = self.start()
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)
        building = self.folder / "building"
        wait_until(lambda: building.exists() and building.read_text().endswith("\n"))
        self.addCleanup(os.kill, int(building.read_text()), signal.SIGKILL)
        second = self.start()
        output, _ = second.communicate(timeout=60)
        self.assertEqual(second.returncode, 1)
        self.assertIn(f"already running in this folder (http://127.0.0.1:{self.port}, process {first.pid})", output)
        self.assertIsNone(first.poll())
        first.kill()
        first.wait()
        (self.folder / "fails").touch()
        output, _ = self.start().communicate(timeout=60)
        self.assertIn("Building the functions.", output)
        self.assertNotIn("already running", output)

    def start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(self.script)],
            env={
                "PATH": f"{self.folder}:{os.environ['PATH']}",
                "PORT": str(self.port),
                "REDIS_URL": "redis://127.0.0.1:1",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        self.addCleanup(process.stdout.close)
        return process


def copy_of_run(folder: Path) -> Path:
    """Returns a copy of run.py, which takes the folder for the repository."""
    scripts = folder / "scripts"
    scripts.mkdir()
    for name in ("run.py", "client.py", "page.py"):
        shutil.copy(SCRIPTS / name, scripts)
    return scripts / "run.py"


class ServersTest(unittest.TestCase):
    """The processes that run.py starts and stops."""

    def setUp(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.servers = run.Servers(run.Signals())
        self.addCleanup(self.servers.stop)

    def test_a_grandchild_in_its_own_session_is_stopped_too(self) -> None:
        # Started as `cargo lambda watch` starts functions. It ignores SIGTERM, and its parent does not stop it.
        stubborn = (
            "import signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('up', flush=True)\n"
            "time.sleep(60)\n"
        )
        parent = (
            "import subprocess, sys, time\n"
            f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\n"
            "print(child.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        log = self.start(parent)
        wait_until(lambda: len(log.read_text().split()) == 2)
        child = int(next(word for word in log.read_text().split() if word != "up"))
        self.assertIn(child, {identity.pid for identity, _ in run.process_table()})
        with mock.patch.object(run, "STOP_TIMEOUT_SECONDS", 0.3):
            self.servers.stop()
        wait_until(lambda: child not in {identity.pid for identity, _ in run.process_table()})

    def test_a_server_that_has_stopped_is_named(self) -> None:
        self.start("import time; time.sleep(60)")
        self.servers.check()
        self.start("raise SystemExit(3)", name="Redis")
        with self.assertRaisesRegex(run.Failure, "Redis has stopped"):
            wait_until(self.servers.check)

    def start(self, program: str, name: str = "a server") -> Path:
        log = Path(self.directory.name) / f"{name}.log"
        self.servers.start(name, [sys.executable, "-c", program], log, os.environ)
        return log


@dataclass(frozen=True)
class Request:
    """A request that a ScriptedServer received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """Answers each method with what the test scripted. A stream is sent verbatim and then ends, or is cut."""

    def __init__(self) -> None:
        # The answers of a method in their order. The last one is repeated.
        self.answers: dict[str, list[tuple[int, str, bytes, bool]]] = {}
        self.requests: list[Request] = []
        # While it is set, a stream that is cut stays open at its end instead.
        self.hangs = threading.Event()
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.requests.append(Request(self.command, self.path, headers, body))
                answers = outer.answers[self.command]
                status, content_type, answer, cut = answers.pop(0) if len(answers) > 1 else answers[0]
                self.close_connection = True
                if not status:
                    return
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                # Small pieces, so that some cut a character in two.
                for start in range(0, len(answer), 5):
                    piece = answer[start : start + 5]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if not cut:
                    self.wfile.write(b"0\r\n\r\n")
                elif outer.hangs.is_set():
                    outer.closing.wait()

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def json(self, method: str, body: Any, status: int = 200) -> None:
        self.answers[method] = [self.json_answer(body, status)]

    @staticmethod
    def json_answer(body: Any, status: int = 200) -> tuple[int, str, bytes, bool]:
        return status, "application/json", json.dumps(body).encode(), False

    def problem(self, method: str, status: int, code: str, detail: str) -> None:
        self.answers[method] = [self.problem_answer(status, code, detail)]

    @staticmethod
    def problem_answer(status: int, code: str, detail: str) -> tuple[int, str, bytes, bool]:
        body = {"type": "about:blank", "title": "t", "status": status, "detail": detail, "code": code}
        return status, "application/problem+json", json.dumps(body).encode(), False

    def stream(self, *frames: str, cut: bool = False) -> None:
        self.answers["POST"] = [self.stream_answer(*frames, cut=cut)]

    @staticmethod
    def stream_answer(*frames: str, cut: bool = False) -> tuple[int, str, bytes, bool]:
        return 200, "text/event-stream; charset=utf-8", "".join(frames).encode(), cut

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


# The connection is closed instead of an answer.
NO_ANSWER = (0, "", b"", True)


class ChatTest(unittest.TestCase):
    """chat.py against a scripted server."""

    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.addCleanup(self.server.close)
        self.server.json("GET", SESSION)

    def talk(self, *lines: str, **environ: str) -> str:
        environ = {"CHAT_URL": self.server.url, "CHAT_TOKEN": "a.b.c", **environ}
        output = io.StringIO()
        with mock.patch("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines))):
            with contextlib.redirect_stdout(output):
                self.status = chat.main(environ, Path(os.devnull))
        return output.getvalue()

    def test_a_reply_is_shown_and_the_message_was_sent(self) -> None:
        self.server.stream(START, ": ping\n\n", DELTA % "你好", DELTA % "，小雨 🌧", DONE)
        output = self.talk("  我回来了 ", CHARACTER="kai")
        self.assertIn("kai remembers 4 messages", output)
        self.assertIn("kai   你好，小雨 🌧\n", output)
        self.assertEqual(self.status, 0)
        request = self.server.requests[-1]
        self.assertEqual((request.method, request.headers["authorization"]), ("POST", "Bearer a.b.c"))
        self.assertEqual(json.loads(request.body), {"character_id": "kai", "message": "我回来了"})

    def test_a_failed_reply_is_shown_and_the_conversation_goes_on(self) -> None:
        self.server.stream(START, DELTA % "雨", ERROR % "true")
        output = self.talk("1", "/help")
        sorry = "(Sorry: 服务暂时不可用，请稍后重试 (upstream_timeout); the text shown was saved.)"
        self.assertIn(f"雨\n{sorry}\n", output)
        self.assertIn("/clear", output)
        self.server.stream(START, ERROR % "false")
        self.assertIn("this turn was not saved", self.talk("1"))

    def test_a_stream_that_ends_early_is_reported(self) -> None:
        for cut in (True, False):
            self.server.stream(START, DELTA % "雨", cut=cut)
            self.assertIn("雨\n(Sorry: the connection ended mid-reply.)", self.talk("1"))

    def test_a_lost_connection_comes_back_where_it_was_cut(self) -> None:
        start, first, second, last = RESUMABLE
        for cut in (True, False):
            for shown in (1, 2, 3):
                frames = (start, first, second, last % "stop")
                self.server.stream(*frames[:shown], cut=cut)
                self.server.json("GET", SESSION)
                self.server.answers["GET"] += [
                    # The process that follows the turn may end too, and Redis may be away for a moment.
                    self.server.stream_answer(": ping\n\n", cut=True),
                    self.server.problem_answer(503, "memory_unavailable", "away"),
                    self.server.stream_answer(*frames[shown:]),
                ]
                self.server.requests.clear()
                with mock.patch.object(client, "RESUME_PAUSES_SECONDS", (0.0, 0.0, 0.0)):
                    output = self.talk("1")
                self.assertTrue(output.endswith("luna  你好呀\nBye.\n"), output)
                resumed = self.server.requests[2:]
                path = "/api/v1/chat/stream?character_id=luna&turn_id=turn-1"
                self.assertEqual([(one.method, one.path) for one in resumed], [("GET", path)] * 3)
                seen = {1: "0", 2: "6", 3: "9"}[shown]
                self.assertEqual([one.headers["last-event-id"] for one in resumed], [seen] * 3)

    def test_a_connection_that_does_not_come_back_is_reported_with_the_reason(self) -> None:
        self.server.stream(*RESUMABLE[:2], cut=True)
        for answer, reason in (
            (self.server.stream_answer(cut=True), "(Sorry: the connection ended mid-reply.)"),
            (NO_ANSWER, "mid-reply, and coming back failed: "),
            (self.server.problem_answer(503, "memory_unavailable", "away"), "failed: away (memory_unavailable"),
            (self.server.problem_answer(404, "turn_not_found", "gone"), "(Sorry: gone (turn_not_found, HTTP 404).)"),
        ):
            self.server.json("GET", SESSION)
            self.server.answers["GET"].append(answer)
            with mock.patch.object(client, "RESUME_PAUSES_SECONDS", (0.0, 0.0)):
                self.assertIn(reason, self.talk("1"))

    def test_a_message_that_got_no_answer_is_sent_again_with_its_key(self) -> None:
        frames = (*RESUMABLE[:3], RESUMABLE[3] % "stop")
        for lost in (NO_ANSWER, self.server.stream_answer(": ping\n\n", cut=True)):
            self.server.answers["POST"] = [lost, self.server.stream_answer(*frames)]
            self.server.requests.clear()
            self.assertIn("luna  你好呀\n", self.talk("1", "2"))
            first, again, second = (one for one in self.server.requests if one.method == "POST")
            keys = [one.headers["idempotency-key"] for one in (first, again, second)]
            self.assertEqual((keys[0], first.body), (keys[1], again.body))
            self.assertNotEqual(keys[0], keys[2])
            self.assertRegex(keys[0], r'^"[0-9a-f-]{36}"$')

    def test_resume_shows_the_newest_reply_that_runs(self) -> None:
        self.server.json("GET", SESSION)
        self.server.answers["GET"] += [
            self.server.stream_answer(*RESUMABLE[:2], cut=True),
            self.server.stream_answer(*RESUMABLE[2:3], RESUMABLE[3] % "stop"),
        ]
        output = self.talk("/resume")
        self.assertIn("luna  你好呀\n", output)
        newest, again = self.server.requests[1:]
        self.assertEqual(newest.path, "/api/v1/chat/stream?character_id=luna")
        self.assertEqual(again.path, "/api/v1/chat/stream?character_id=luna&turn_id=turn-1")
        self.assertEqual(again.headers["last-event-id"], "6")

    def test_resume_reports_that_nothing_runs(self) -> None:
        self.server.json("GET", SESSION)
        self.server.answers["GET"].append((204, "", b"", False))
        self.assertIn("(No reply is running.)", self.talk("/resume"))

    def test_ctrl_c_stops_the_reply_and_shows_how_it_ended(self) -> None:
        self.server.hangs.set()
        for shown in (1, 2):
            self.server.json("GET", SESSION)
            self.server.answers["GET"].append(self.server.stream_answer(*RESUMABLE[shown:2], RESUMABLE[3] % "stopped"))
            self.server.json("DELETE", {"turn_id": "turn-1", "state": "stopping"}, status=202)
            self.server.stream(*RESUMABLE[:shown], cut=True)
            self.server.requests.clear()
            output = self.interrupted(until="你好" if shown == 2 else "luna  ")
            self.assertTrue(output.endswith("luna  你好\n(stopped)\nBye.\n"), output)
            stop, rest = self.server.requests[2:]
            path = "/api/v1/chat/stream?character_id=luna&turn_id=turn-1"
            self.assertEqual([(stop.method, stop.path), (rest.method, rest.path)], [("DELETE", path), ("GET", path)])
            self.assertEqual(rest.headers["last-event-id"], {1: "0", 2: "6"}[shown])

    def test_ctrl_c_leaves_a_reply_that_cannot_be_stopped(self) -> None:
        self.server.hangs.set()
        self.server.problem("DELETE", 404, "turn_not_found", "gone")
        self.server.stream(START, DELTA % "雨", cut=True)
        self.assertIn("雨\n(stopped showing the reply", self.interrupted(until="雨"))

    def interrupted(self, until: str) -> str:
        """Returns what the program prints for one message if it gets a SIGINT once it has printed a text."""
        process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "chat.py")],
            env={**os.environ, "CHAT_URL": self.server.url, "CHAT_TOKEN": "a.b.c", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Tests that a shell runs in the background inherit that SIGINT is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        assert process.stdin and process.stdout
        self.addCleanup(process.stdout.close)
        with process.stdin:
            process.stdin.write(b"1\n")
        printed = b""
        while not printed.endswith(until.encode()):
            byte = process.stdout.read(1)
            self.assertTrue(byte, printed)
            printed += byte
        process.send_signal(signal.SIGINT)
        printed += process.stdout.read()
        self.assertEqual(process.wait(60), 0)
        return printed.decode()

    def test_unavailable_memory_is_reported(self) -> None:
        self.server.stream(START.replace('"ok"', '"unavailable"'), DELTA % "雨", DONE.replace("true}", "false}"))
        output = self.talk("1")
        self.assertIn("(memory is unavailable", output)
        self.assertIn("(this turn was not saved)", output)

    def test_a_refusal_shows_its_detail_and_code(self) -> None:
        self.server.problem("POST", 422, "invalid_request", "message: too long")
        self.assertIn("(Sorry: message: too long (invalid_request, HTTP 422).)", self.talk("1"))

    def test_a_rejected_token_ends_the_program_at_once(self) -> None:
        self.server.problem("GET", 401, "unauthorized", "the token has expired")
        self.assertIn("Sorry: the token has expired (unauthorized, HTTP 401).", self.talk("1"))
        self.assertEqual(self.status, 1)

    def test_commands(self) -> None:
        self.server.json("DELETE", {"message": "历史已清空"})
        self.server.answers["GET"] += [self.server.json_answer(SESSION), self.server.json_answer(GREETED)]
        output = self.talk("/session", "/clear", "/dance", "/quit", "never sent")
        self.assertIn("ACTIVE, 4 messages stored (6 ever, 99 tokens)", output)
        self.assertIn("expires in 23 h 59 min", output)
        self.assertIn("(历史已清空)\nluna  末班船刚开走。", output)
        self.assertIn("/dance is not a command", output)
        self.assertEqual([request.method for request in self.server.requests], ["GET", "GET", "DELETE", "GET"])

    def test_a_session_that_does_not_exist_is_a_new_conversation(self) -> None:
        self.begin_anew({name: value for name, value in GREETED.items() if name != "greeting"})
        self.server.stream(START, DELTA % "你好", DONE)
        self.assertTrue(
            self.talk("1").endswith("a new conversation with luna. /help lists the commands.\nluna  你好\nBye.\n")
        )
        self.assertEqual(json.loads(self.server.requests[-1].body), {"character_id": "luna", "message": "1"})

    def test_a_character_begins_a_new_conversation_and_knows_it_until_a_turn_is_stored(self) -> None:
        self.begin_anew(GREETED)
        self.server.stream(START, ERROR % "false")
        self.server.answers["POST"] += [self.server.stream_answer(START, DELTA % "你好", DONE)] * 2
        output = self.talk("1", "/help", "2", "3")
        self.assertIn(
            "a new conversation with luna. /help lists the commands.\nluna  末班船刚开走。\n\n坐一会儿？\n", output
        )
        self.assertEqual(self.server.requests[1].path, "/api/v1/chat/history?character_id=luna")
        sent = [json.loads(one.body) for one in self.server.requests if one.method == "POST"]
        self.assertEqual([body.get("greeting") for body in sent], [0, 0, None])

    def begin_anew(self, history: Any) -> None:
        """Scripts a session that does not exist, and its history."""
        self.server.problem("GET", 404, "session_not_found", "会话不存在")
        self.server.answers["GET"].append(self.server.json_answer(history))

    def test_a_service_that_is_not_running_is_reported(self) -> None:
        output = self.talk("1", CHAT_URL="", CHAT_TOKEN="")
        self.assertIn("The service is not running; start it with `make run`.", output)
        self.assertEqual(self.status, 1)

    def test_the_file_of_a_killed_run_does_not_count_as_a_run(self) -> None:
        with socket.socket() as gone, tempfile.TemporaryDirectory() as directory:
            # Bound but not listening: no server answers on this port, and no other can take it.
            gone.bind(("127.0.0.1", 0))
            env_file = Path(directory) / "env"
            url = f"http://127.0.0.1:{gone.getsockname()[1]}"
            client.write_env(env_file, {"CHAT_URL": url, "CHAT_USER": "u", "JWT_SECRET": "s"})
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                self.assertEqual(chat.main({}, env_file), 1)
        self.assertIn("The service is not running", output.getvalue())

    def test_the_program_reads_its_lines_from_a_pipe(self) -> None:
        self.server.stream(START, DELTA % "你好", DONE)
        self.assertIn("luna  你好\n", self.pipe("你好\n".encode()))

    def test_a_line_that_is_not_utf_8_is_reported_and_the_next_ones_are_sent(self) -> None:
        self.server.stream(START, DELTA % "你好", DONE)
        output = self.pipe(b"\xff\nhello \xe4\xbd there\n/\xff\n" + "你好\n".encode())
        self.assertEqual(output.count("this line is not valid UTF-8, so it was not sent"), 3)
        self.assertIn("luna  你好\n", output)

    def pipe(self, lines: bytes) -> str:
        """Returns what the program prints when it reads these lines."""
        done = subprocess.run(
            [sys.executable, str(SCRIPTS / "chat.py")],
            env={**os.environ, "CHAT_URL": self.server.url, "CHAT_TOKEN": "a.b.c", "PYTHONIOENCODING": "utf-8"},
            input=lines,
            capture_output=True,
            timeout=60,
        )
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        return done.stdout.decode()


class CharacterTest(unittest.TestCase):
    """character.py against a scripted server."""

    STORED = {
        "character_id": "mira",
        "name": "Mira",
        "spec": "chara_card_v3",
        "fields": ["system_prompt", "first_mes"],
        "lore_entries": 1,
        "greetings": 2,
        "fixed_tokens": 96,
        "warnings": ["scenario is not text and is ignored", "entry 3 of the lorebook is ignored"],
    }

    def setUp(self) -> None:
        self.server = ScriptedServer()
        self.addCleanup(self.server.close)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.folder = Path(directory.name)
        self.card = self.folder / "card.png"
        self.card.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
        self.env_file = self.folder / "env"
        client.write_env(self.env_file, {"CHAT_URL": self.server.url})

    def store(self, **environ: str) -> str:
        environ = {"FILE": str(self.card), "ID": "mira", **environ}
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            self.status = character.main(environ, self.env_file)
        return output.getvalue()

    def test_a_card_is_sent_to_the_byte_and_what_was_understood_is_shown(self) -> None:
        self.server.json("POST", self.STORED)
        output = self.store(ID="mira 2")
        self.assertEqual(self.status, 0)
        request = self.server.requests[0]
        self.assertEqual(request.path, "/2015-03-31/functions/put-character/invocations")
        event = json.loads(request.body)
        self.assertEqual((event["action"], event["character_id"]), ("put", "mira 2"))
        self.assertEqual(base64.b64decode(event["card"]), self.card.read_bytes())
        for line in (
            "  name       Mira\n",
            "  format     Character Card V3\n",
            "  fields     system_prompt, first_mes\n",
            "  lorebook   1 entry\n",
            "  greetings  2\n",
            "  prompt     about 96 tokens before anything was said\n",
            "  warning    scenario is not text and is ignored\n",
            "  warning    entry 3 of the lorebook is ignored\n",
        ):
            self.assertIn(line, output)
        self.assertIn("CHARACTER='mira 2' make chat\n", output)
        self.assertTrue(output.endswith("The page lists it when it is loaded again.\n"), output)
        self.assertNotIn("deployment", output)

    def test_text_of_a_card_cannot_steer_the_terminal(self) -> None:
        self.server.json("POST", {**self.STORED, "name": "Mira\x1b[2J\n\u202e"})
        self.assertIn("  name       Mira\ufffd[2J\ufffd\ufffd\n", self.store())

    def test_a_file_that_a_deployment_would_not_take_is_noted_and_stored(self) -> None:
        self.server.json("POST", self.STORED)
        for size, is_noted in ((4_718_000, False), (4_719_000, True)):
            self.card.write_bytes(bytes(size))
            self.assertEqual("too large for a deployment" in self.store(), is_noted, size)
            self.assertEqual(self.status, 0)

    def test_what_is_wrong_is_one_line(self) -> None:
        missing = self.folder / "missing.png"
        for environ, line in (
            ({"FILE": ""}, "Sorry: FILE is missing: make character FILE=card.png ID=mira.\n"),
            ({"ID": ""}, "Sorry: ID is missing: make character FILE=card.png ID=mira.\n"),
            ({"FILE": str(missing)}, f"Sorry: there is no file {missing}.\n"),
            ({"FILE": str(self.folder)}, f"Sorry: {self.folder} cannot be read (is a directory).\n"),
        ):
            self.assertEqual(self.store(**environ), line)
            self.assertEqual(self.status, 1)
        self.assertEqual(self.server.requests, [])

    def test_a_refusal_is_shown_with_its_detail(self) -> None:
        # A function without a route refuses by its answer alone: the status is that of the invocation.
        problem = {"type": "about:blank", "title": "t", "status": 422, "detail": "card: no", "code": "invalid_request"}
        self.server.json("POST", problem)
        self.assertEqual(self.store(), "Sorry: card: no (invalid_request, HTTP 422).\n")
        self.assertEqual(self.status, 1)

    def test_an_event_that_does_not_reach_the_function_is_reported(self) -> None:
        self.server.problem("POST", 500, "internal", "the function has ended")
        self.assertEqual(self.store(), "Sorry: the function has ended (internal, HTTP 500).\n")
        # As a server answers that is none of the service.
        self.server.answers["POST"] = [(404, "text/html", b"<h1>Not found</h1>", False)]
        self.assertEqual((self.store(), self.status), ("Sorry: the request was rejected (HTTP 404).\n", 1))

    def test_a_service_that_is_not_running_is_reported(self) -> None:
        not_running = "The service is not running; start it with `make run`.\n"
        self.server.answers["POST"] = [NO_ANSWER]
        self.assertEqual((self.store(), self.status), (not_running, 1))
        self.env_file.unlink()
        self.assertEqual((self.store(), self.status), (not_running, 1))

    def test_without_a_file_and_an_id_the_usage_and_the_stored_characters_are_shown(self) -> None:
        pages = ({"characters": ["ada", "kai"], "next": "kai"}, {"characters": ["mira\x07"], "next": None})
        self.server.answers["POST"] = [self.server.json_answer(page) for page in pages]
        output = self.store(FILE="", ID="")
        self.assertEqual(self.status, 0)
        self.assertTrue(output.startswith("Usage: make character FILE=card.png ID=mira\n"), output)
        self.assertTrue(output.endswith("\nStored here: ada, kai, mira\ufffd.\n"), output)
        sent = [json.loads(one.body) for one in self.server.requests]
        self.assertEqual(sent, [{"action": "list"}, {"action": "list", "after": "kai"}])
        self.env_file.unlink()
        self.assertNotIn("Stored", self.store(FILE="", ID=""))


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the condition was not met within 30 s")
        time.sleep(0.01)


class SampleEventTest(unittest.TestCase):
    def test_a_patch_is_merged_as_rfc_7396_says(self) -> None:
        for target, patch, expected in [
            ({"a": "b"}, {"a": "c"}, {"a": "c"}),
            ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
            ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
            ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
            ({"a": "foo"}, "bar", "bar"),
            ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
            ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ]:
            self.assertEqual(event.merged(target, patch), expected)

    def test_every_event_can_be_printed(self) -> None:
        for name in event.names():
            self.assertIsInstance(json.loads(event.event(name, "t")), dict)
            self.assertNotIn("${TOKEN}", event.event(name, "t"))

    def test_a_refusal_is_its_sample_with_the_patch(self) -> None:
        sample = json.loads(event.event("session-meta.patch.http", "t"))
        refused = json.loads(event.event("invalid-json.empty.http", "t"))
        self.assertEqual(sample["headers"]["authorization"], "Bearer t")
        self.assertEqual(sample["rawPath"], refused["rawPath"])
        self.assertIsNotNone(sample["body"])
        self.assertNotIn("body", refused)

    def test_an_unknown_event_is_refused(self) -> None:
        with self.assertRaises(KeyError):
            event.event("nothing")


if __name__ == "__main__":
    unittest.main()
