"""Tests of how a local run builds and serves the page. Nothing is built: a folder of the test is the page."""

import contextlib
import http.client
import io
import json
import tempfile
import threading
import unittest
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import page
import run

API = "http://127.0.0.1:9000"
HTML = (page.WEB / "page" / "index.html").read_text(encoding="utf-8")


class ServedPage(unittest.TestCase):
    """A built page, served."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.dist = Path(folder.name) / "dist"
        (self.dist / "assets").mkdir(parents=True)
        (self.dist / "index.html").write_text(HTML, encoding="utf-8")
        (self.dist / "assets" / "index-1.js").write_text("let a;", encoding="utf-8")
        (self.dist / ".stamp").write_text("digest", encoding="utf-8")
        (Path(folder.name) / "secret").write_text("secret", encoding="utf-8")
        served = page.files(self.dist, API)
        self.stored: list[str] = []
        chat = mock.Mock(stored_characters=lambda: iter(self.stored))
        patch = mock.patch.object(page, "Chat", return_value=chat)
        patch.start()
        self.addCleanup(patch.stop)
        handler = page.handler(served, API, page.policy(served["/index.html"][1].decode()))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.port = server.server_address[1]

    def ask(self, path: str, method: str = "GET") -> "tuple[http.client.HTTPResponse, str]":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.addCleanup(connection.close)
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()

    def test_the_page_may_ask_the_functions_and_nothing_else(self) -> None:
        response, html = self.ask("/")
        self.assertEqual(response.status, 200)
        self.assertIn(f"connect-src 'self' {API};", html)
        self.assertIn(f'<meta name="chat-api" content="{API}" />', html)
        policy = response.headers["Content-Security-Policy"]
        for rule in ("default-src 'none'", "script-src 'self'", f"connect-src 'self' {API}", "frame-ancestors 'none'"):
            self.assertIn(rule, policy.split("; "))
        self.assertNotIn("unsafe", policy)
        self.assertEqual(response.headers["Cache-Control"], "no-store")

    def test_the_samples_and_all_stored_characters_are_offered(self) -> None:
        response, config = self.ask("/config.json")
        self.assertEqual(response.headers["Content-Type"], "application/json")
        self.assertEqual(json.loads(config), {"characters": ["luna", "kai", "mei"]})
        self.stored = ["kai", "mira 2"]
        _, config = self.ask("/config.json")
        self.assertEqual(json.loads(config), {"characters": ["luna", "kai", "mei", "mira 2"]})

    def test_while_the_functions_do_not_answer_the_samples_are_offered(self) -> None:
        with mock.patch.object(page, "Chat", side_effect=page.ChatError("no answer")):
            response, config = self.ask("/config.json")
        self.assertEqual((response.status, json.loads(config)), (200, {"characters": ["luna", "kai", "mei"]}))

    def test_the_page_is_served_while_the_functions_are_asked(self) -> None:
        asked, answered = threading.Event(), threading.Event()
        self.addCleanup(answered.set)

        def stored_characters() -> "Iterator[str]":
            asked.set()
            self.assertTrue(answered.wait(10))
            yield "mira"

        found: list[str] = []
        with mock.patch.object(page, "Chat", return_value=mock.Mock(stored_characters=stored_characters)):
            listing = threading.Thread(target=lambda: found.append(self.ask("/config.json")[1]))
            listing.start()
            self.assertTrue(asked.wait(10))
            self.assertEqual(self.ask("/")[0].status, 200)
            self.assertEqual(found, [])
            answered.set()
            listing.join(10)
        self.assertEqual(json.loads(found[0])["characters"][-1], "mira")

    def test_a_script_has_the_type_that_browsers_ask_for(self) -> None:
        response, _ = self.ask("/assets/index-1.js?v=1")
        self.assertEqual(response.headers["Content-Type"], "text/javascript")
        self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")

    def test_only_files_of_the_page_are_served(self) -> None:
        for path in ("/../secret", "/assets/../../secret", "/%2e%2e/secret", "/.stamp", "/nothing", "//index.html/.."):
            response, text = self.ask(path)
            self.assertEqual((response.status, text), (404, "Not found.\n"), path)
        response, _ = self.ask("/", "POST")
        self.assertEqual(response.status, 501)

    def test_head_has_no_body(self) -> None:
        response, text = self.ask("/", "HEAD")
        self.assertEqual((response.status, text), (200, ""))


class Stamp(unittest.TestCase):
    """By what a run knows that the page must be built again."""

    def test_it_changes_with_everything_that_the_page_is_built_from_and_with_nothing_else(self) -> None:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(page, "WEB", Path(folder)):

            def write(name: str, text: str) -> str:
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
                return page.stamp()

            for name in ("package.json", "package-lock.json"):
                Path(folder, name).touch()
            seen = [page.stamp()]
            for name in ("package.json", "package-lock.json", "page/index.html", "page/src/a.ts", "src/client.ts"):
                seen += [write(name, "1"), write(name, "2")]
            Path(folder, "src/client.ts").rename(Path(folder, "src/turn.ts"))
            seen.append(page.stamp())
            self.assertEqual(len(set(seen)), len(seen))
            self.assertEqual(write("e2e/page.test.ts", "1"), seen[-1])
            self.assertEqual(page.stamp(), seen[-1])


class PreparedPage(unittest.TestCase):
    """What a run does about the page."""

    def prepare(self, settings: "dict[str, str]") -> "tuple[page.Page | None, str]":
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            # One less than 0, for which the system chooses a port.
            prepared = run.prepare_page(settings, API, -1)
        if prepared:
            self.addCleanup(prepared.stop)
        return prepared, said.getvalue()

    def test_without_node_one_line_says_so_and_the_run_goes_on(self) -> None:
        with mock.patch.object(page, "built_stamp", return_value=""):
            with mock.patch.object(page.shutil, "which", return_value=None):
                prepared, said = self.prepare({})
        self.assertIsNone(prepared)
        self.assertEqual(
            said, "The page is not served: it needs Node 20.19, or 22.12 or later, with npm, which was not found.\n"
        )

    def test_a_copy_without_web_serves_none(self) -> None:
        with mock.patch.object(page, "WEB", Path("/nonexistent")):
            prepared, said = self.prepare({})
        self.assertIsNone(prepared)
        self.assertEqual(said, "The page is not served: the folder web/ is missing.\n")

    def test_an_old_node_is_named(self) -> None:
        for old in ("v18.20.4", "v20.18.3", "v21.7.3", "v22.11.0"):
            with mock.patch.object(page, "built_stamp", return_value=""):
                with mock.patch.object(page.shutil, "which", return_value="/usr/bin/node"):
                    with mock.patch.object(page.subprocess, "run", return_value=mock.Mock(stdout=f"{old}\n")):
                        _, said = self.prepare({})
            self.assertEqual(
                said, f"The page is not served: it needs Node 20.19, or 22.12 or later, and this is {old}.\n"
            )
        for good in ("v20.19.0", "v22.12.0", "v24.0.0"):
            with mock.patch.object(page.shutil, "which", return_value="/usr/bin/node"):
                with mock.patch.object(page.subprocess, "run", return_value=mock.Mock(stdout=f"{good}\n")):
                    page.require_node()

    def test_node_is_named_alike_everywhere(self) -> None:
        needed = json.loads((page.WEB / "package.json").read_text(encoding="utf-8"))["devEngines"]["runtime"]
        self.assertEqual(needed, {"name": "node", "version": "^20.19.0 || >=22.12.0"})
        guides = ("README.md", "CONTRIBUTING.md", "docs/hosting.md", "docs/testing.md", "web/README.md")
        for guide in (*guides, "web/page/README.md", "scripts/setup.sh"):
            # A line may end in the middle.
            self.assertIn(page.NODE, " ".join((page.ROOT / guide).read_text(encoding="utf-8").split()), guide)

    def test_a_page_that_is_built_needs_no_node_and_the_functions_allow_its_origin(self) -> None:
        settings: dict[str, str] = {}
        with mock.patch.object(page, "built_stamp", return_value=page.stamp()):
            with mock.patch.object(page.shutil, "which", return_value=None):
                prepared, said = self.prepare(settings)
        self.assertEqual(said, "")
        assert prepared
        self.assertEqual(settings["CORS_ALLOWED_ORIGINS"], prepared.origin)

    def test_origins_of_the_caller_stay(self) -> None:
        settings = {"CORS_ALLOWED_ORIGINS": "https://app.example.com"}
        with mock.patch.object(page, "built_stamp", return_value=page.stamp()):
            self.prepare(settings)
        self.assertEqual(settings["CORS_ALLOWED_ORIGINS"], "https://app.example.com")

    def test_a_build_that_fails_is_one_line_that_names_its_log(self) -> None:
        prepared = page.Page(API, 0)
        self.addCleanup(prepared.stop)
        prepared._build = mock.Mock(wait=mock.Mock(return_value=1))
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            self.assertIsNone(run.serve_page(prepared))
        self.assertRegex(said.getvalue(), r"^The page is not served: it could not be built; \S+page\.log says why\.\n$")

    def test_the_address_of_the_page_is_printed_first_with_the_token_in_its_fragment(self) -> None:
        settings = {"CHAT_URL": API, "CHAT_USER": "demo", "JWT_SECRET": "s", "JWT_ISSUER": "", "JWT_AUDIENCE": ""}
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run.show_next_steps(settings, "http://127.0.0.1:9001")
        self.assertRegex(said.getvalue().splitlines()[2], r"^  http://127\.0\.0\.1:9001/#token=[\w-]+\.[\w-]+\.[\w-]+$")
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            run.show_next_steps(settings, None)
        self.assertNotIn("#token", said.getvalue())

    def test_page_off_serves_none(self) -> None:
        self.assertTrue(page.is_off({"PAGE": "off"}))
        self.assertFalse(page.is_off({}))


if __name__ == "__main__":
    unittest.main()
