"""What the functions answered to the events of `events/`, as docs/openapi.yaml describes it.

The test of the events (acceptance/tests/events) has sent each event to the real binary, and recorded the answers."""

from __future__ import annotations

import json
import subprocess
import unittest
from pathlib import Path
from typing import Any

import event
from document import ROOT, Document

from functions import ROUTES

DOCUMENT = Document.read()
FUNCTIONS = {(method, path): function.name for method, path, function in ROUTES}


def recorded() -> list[dict[str, Any]]:
    """Returns the answers of the last run of the test."""
    command = ["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    file = Path(metadata["target_directory"]) / "events-answers.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").removesuffix("\n").split("\n")]


def errors_of(answer: dict[str, Any]) -> list[str]:
    """Returns how an answer differs from what the document describes."""
    if "status" not in answer:
        # The document is about routes. Functions without one refuse with the same problem documents.
        is_refused = "code" in json.loads(answer["body"])
        return DOCUMENT.errors(("components", "schemas", "Problem"), json.loads(answer["body"])) if is_refused else []
    route = (answer["method"].lower(), answer["path"])
    # Two functions share the path of the stream. Each refuses what is the other's, so the document of a route does not
    # describe it.
    is_own = FUNCTIONS.get(route) == answer["function"] and route in DOCUMENT.operations()
    place = (*DOCUMENT.operations()[route], "responses") if is_own else ("x-other-methods",)
    return DOCUMENT.answer_errors(place, answer["status"], answer["headers"], answer["body"])


class EveryAnswer(unittest.TestCase):
    def test_is_one_that_the_document_describes(self) -> None:
        for answer in recorded():
            with self.subTest(answer["event"]):
                self.assertEqual(errors_of(answer), [])

    def test_was_recorded(self) -> None:
        self.assertEqual(sorted(answer["event"] for answer in recorded()), sorted(event.names()))


if __name__ == "__main__":
    unittest.main()
