"""Tests of the benchmark's peers, without network, Redis or installed libraries: a scripted memory stands in."""

import contextlib
import io
import json
import os
import select
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import memories
import peers
from peers import run

SCRIPT = Path(__file__).resolve().parent / "peers.py"
REDIS = "redis://127.0.0.1:6379/0"


class StatisticsTest(unittest.TestCase):
    def test_a_quantile_is_a_value_that_was_measured(self) -> None:
        values = [50, 10, 40, 20, 30]
        quantiles = [memories.quantile(values, share) for share in (0, 0.1, 0.5, 0.9, 1)]
        self.assertEqual(quantiles, [10, 10, 30, 50, 50])
        self.assertEqual(values, [50, 10, 40, 20, 30])
        self.assertEqual(memories.quantile([7], 0.9), 7)
        # Between two, the later one, as the benchmark's own figures round.
        self.assertEqual(memories.quantile([1, 2], 0.5), 2)

    def test_a_summary_is_in_microseconds(self) -> None:
        expected = {"samples": 11, "median_us": 5.0, "p10_us": 1.0, "p90_us": 9.0}
        self.assertEqual(memories.summary([number * 1000 for number in range(11)]), expected)
        self.assertEqual(memories.summary([1234])["median_us"], 1.2)


class OptionsTest(unittest.TestCase):
    def test_options_are_taken(self) -> None:
        options = peers.parse(["run", "--rounds", "300", "--redis-url", REDIS])
        self.assertEqual((options.rounds, options.redis_url, options.session), (300, REDIS, 50))
        with tempfile.TemporaryDirectory() as folder:
            for name in ("app.py", "requirements.txt"):
                (Path(folder) / name).touch()
            command = ["service", "--dir", folder, "--redis-url", REDIS, "--llm-base-url", "http://127.0.0.1:1/v1/"]
            options = peers.parse(command)
            self.assertEqual(options.dir, Path(folder).resolve())
            # The service appends its path to it.
            self.assertEqual(options.llm_base_url, "http://127.0.0.1:1/v1")

    def test_a_bad_option_is_named(self) -> None:
        for rounds in ("0", "-1", "many", "", "1.5", "٣", "1" * 7):
            self.assertIn("argument --rounds: must be a number from 1", self.refusal("run", f"--rounds={rounds}"))
        for session in ("0", "51", "100", "x"):
            said = self.refusal("run", "--rounds=1", f"--session={session}")
            self.assertIn("argument --session: must be an even number from 2 to 98", said)
        for url in ("127.0.0.1:6379", "http://localhost", "redis://", "redis://h:0", "redis://h:x", "redis://[", ""):
            said = self.refusal("run", "--rounds=1", f"--redis-url={url}")
            self.assertIn("argument --redis-url: must be an address that begins with redis:// or rediss://", said)
        self.assertIn("--redis-url", self.refusal("run", "--rounds=1"))
        self.assertIn("command", self.refusal())
        self.assertIn("dance", self.refusal("dance"))

    def test_a_folder_without_the_service_is_refused(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.assertIn("has no app.py and no requirements.txt", self.refusal("service", f"--dir={folder}"))
            (Path(folder) / "app.py").touch()
            self.assertIn("has no requirements.txt", self.refusal("service", f"--dir={folder}"))

    def test_a_refused_address_is_not_repeated(self) -> None:
        self.assertNotIn("secret", self.refusal("run", "--redis-url=amqp://:secret@h"))

    def refusal(self, *arguments: str) -> str:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), self.assertRaises(SystemExit) as ended:
            peers.parse(arguments)
        self.assertEqual(ended.exception.code, 2)
        return said.getvalue()


class ScriptedMemory(memories.Memory):
    """Keeps its session in a list, and records the calls."""

    def __init__(self, session: int, log: list[str], name: str = "scripted") -> None:
        self.name, self._log, self._session = name, log, session
        self._kept = [text for number in range(session // 2) for text in memories.turn(number)]
        self.stored = list(self._kept)

    def load(self) -> list[str]:
        self._log.append(f"{self.name} load")
        return list(self.stored)

    def commit(self) -> None:
        self._log.append(f"{self.name} commit")
        self.stored += memories.turn(self._session // 2)

    def texts(self, loaded: Any) -> list[str]:
        return list(loaded)

    def restore(self) -> None:
        self._log.append(f"{self.name} restore")
        self.stored = list(self._kept)


class RoundsTest(unittest.TestCase):
    def test_each_operation_is_measured_in_each_round_from_a_restored_session(self) -> None:
        log: list[str] = []
        scripted = [ScriptedMemory(4, log, name) for name in "ab"]
        samples = memories.time_rounds(scripted, 3)
        names = {(name, operation) for name in "ab" for operation in ("load", "commit")}
        self.assertEqual({name: len(values) for name, values in samples.items()}, dict.fromkeys(names, 3))
        self.assertEqual(len(log), 2 * 4 * (3 + memories.WARM_UP_ROUNDS))
        self.assertTrue(all(entry.endswith("restore") for entry in log[::2]))
        rounds = [tuple(log[start + 1 : start + 8 : 2]) for start in range(0, len(log), 8)]
        self.assertTrue(all(len(set(each)) == 4 for each in rounds))
        self.assertGreater(len(set(rounds)), 10)

    def test_a_memory_that_does_the_work_passes(self) -> None:
        memories.check(ScriptedMemory(4, []), 4)

    def test_a_memory_that_does_other_work_is_not_measured(self) -> None:
        class Forgetful(ScriptedMemory):
            def commit(self) -> None:
                pass

        class Short(ScriptedMemory):
            def texts(self, loaded: Any) -> list[str]:
                return list(loaded)[-2:]

        class Growing(ScriptedMemory):
            def restore(self) -> None:
                pass

        for kind, reason in ((Forgetful, "other messages"), (Short, "other messages"), (Growing, "put back")):
            with self.subTest(kind=kind.__name__), self.assertRaisesRegex(memories.Unmeasurable, reason):
                memories.check(kind(4, []), 4)

    def test_figures_are_reported_with_their_ratio_to_the_bare_commands(self) -> None:
        memory = ScriptedMemory(2, [])
        samples: memories.Samples = {}
        for operation in ("load", "commit"):
            samples[memories.Bare.name, operation] = [2000]
            samples["scripted", operation] = [5000]
        lines: list[dict[str, Any]] = []
        with mock.patch.object(memories.importlib.metadata, "version", return_value="1.2"):
            memory.package = "scripted"
            memories.write_figures(samples, [memory], lambda line: lines.append(dict(line)))
        figures = {"samples": 1, "median_us": 5.0, "p10_us": 5.0, "p90_us": 5.0, "ratio_to_bare": 2.5}
        load, commit = lines
        self.assertEqual(load, {"peer": "scripted", "version": "1.2", "operation": "load", **figures})
        self.assertEqual(commit["operation"], "commit")


class SetupTest(unittest.TestCase):
    def setUp(self) -> None:
        self.said = io.StringIO()
        redirected = contextlib.redirect_stderr(self.said)
        redirected.__enter__()
        self.addCleanup(redirected.__exit__, None, None, None)
        for target, name, value in (
            # Messages name folders as seen from here; and whatever Python the tests run with is new enough.
            (peers, "ROOT", Path(tempfile.gettempdir())),
            (peers, "OLDEST_PYTHON", (3, 0)),
        ):
            patched = mock.patch.object(target, name, value)
            patched.start()
            self.addCleanup(patched.stop)

    def test_what_cannot_be_installed_is_status_3_with_the_last_word_of_pip(self) -> None:
        failed = subprocess.CompletedProcess([], 1, "", "looking\nERROR: No matching distribution found.\n")
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(peers, "BENCH_VENV", Path(folder)):
            with mock.patch.object(peers.subprocess, "run", return_value=failed):
                self.assertEqual(peers.main(["setup"]), 3)
        self.assertIn("cannot be made: No matching distribution found.\n", self.said.getvalue())

    def test_an_old_python_is_reported(self) -> None:
        with mock.patch.object(peers, "OLDEST_PYTHON", (99, 1)):
            self.assertEqual(peers.main(["setup"]), 3)
        self.assertIn("Python 99.1 or later", self.said.getvalue())

    def test_what_was_made_in_this_way_is_left_as_it_is(self) -> None:
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w") as wanted:
            made = mock.Mock(return_value=subprocess.CompletedProcess([], 0, "", ""))
            with mock.patch.object(peers.subprocess, "run", made):
                for _ in range(2):
                    peers.make_venv(Path(folder), "it", ["-r", wanted.name])
                self.assertEqual(made.call_count, 2)
                wanted.write("redis")
                wanted.flush()
                peers.make_venv(Path(folder), "it", ["-r", wanted.name])
                self.assertEqual(made.call_count, 4)

    def test_other_machines_have_no_modules_and_say_so(self) -> None:
        with mock.patch.object(peers.platform, "machine", return_value="aarch64"):
            self.assertIn("x86-64 only", peers.without_modules() or "")

    def test_the_table_is_found_beside_the_manifest(self) -> None:
        packages = [{"name": "serde", "manifest_path": "/s/Cargo.toml"}]
        self.assertIsNone(peers.table_in({"packages": packages}))
        packages.append({"name": "tiktoken-rs", "manifest_path": "/t/Cargo.toml"})
        self.assertEqual(peers.table_in({"packages": packages}), Path("/t/assets/cl100k_base.tiktoken"))

    def test_measuring_without_the_libraries_says_what_to_run(self) -> None:
        with mock.patch.dict(sys.modules, {"redis": None}):
            self.assertEqual(peers.main(["run", "--rounds", "1", "--redis-url", REDIS]), 3)
        self.assertIn("run bench/peers/peers.py setup.", self.said.getvalue())


class ServerTest(unittest.TestCase):
    def test_it_serves_until_its_input_closes_and_leaves_nothing(self) -> None:
        # A stand-in for redis-server that only answers PING; the modules' server is not looked for.
        stand_in = (
            f"#!{sys.executable}\n"
            "import socket, sys\n"
            "server = socket.create_server(('127.0.0.1', int(sys.argv[sys.argv.index('--port') + 1])))\n"
            "while True:\n"
            "    connection = server.accept()[0]\n"
            "    connection.recv(64)\n"
            "    connection.sendall(b'+PONG\\r\\n')\n"
        )
        program = (
            "import sys, pathlib, peers\n"
            "folder = pathlib.Path(sys.argv[1])\n"
            "peers.BENCH_VENV, peers.SERVER_LOG = folder, folder / 'log'\n"
            "sys.exit(peers.main(['server']))\n"
        )
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "redis-server").write_text(stand_in, encoding="utf-8")
            (Path(folder) / "redis-server").chmod(0o755)
            env = {**os.environ, "PATH": folder, "PYTHONPATH": str(SCRIPT.parent)}
            server = subprocess.Popen(
                [sys.executable, "-c", program, folder], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert server.stdin and server.stdout
            try:
                self.assertTrue(select.select([server.stdout], [], [], 30)[0])
                said = json.loads(server.stdout.readline())
                self.assertIs(said["modules"], False)
                self.assertTrue(said["reason"])
                port = int(said["url"].rpartition(":")[2].removesuffix("/0"))
                self.assertTrue(run.redis_answers(port))
                server.stdin.close()
                self.assertEqual(server.wait(30), 0)
            finally:
                # Politely, so that it ends what it started.
                server.terminate()
                server.wait()
                server.stdin.close()
                server.stdout.close()
            self.assertFalse(run.redis_answers(port))


if __name__ == "__main__":
    unittest.main()
