#!/usr/bin/env python3
"""Starts the service as `make run` does, and lets schemathesis compare it with docs/openapi.yaml.

Ends with the status of schemathesis. If the check fails, it shows the last lines of the service's log. Nothing that it
started runs afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import client
import run
import yaml

HERE = Path(__file__).resolve().parent
DOCUMENT = client.ROOT / "docs" / "openapi.yaml"
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
# The ids in the examples of the document. Those of real turns take their places, so that requests find something.
TURN = {
    "turn_id": "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b90",
    "user_msg_id": "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b91",
    "msg_id": "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b92",
}
# A message of the other user.
OTHER_TURN = {"user_msg_id": "01936d2a-7c3e-7b51-9f04-5a1c8e2d6b93"}
# Well over the time that a run takes.
TIMEOUT_SECONDS = 300.0


def main() -> int:
    # The default action of SIGTERM would end this process without ending the service.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    with service() as process, tempfile.TemporaryDirectory() as folder:
        try:
            status = check(Path(folder))
        except (client.ChatError, subprocess.TimeoutExpired) as error:
            print(f"Sorry: {error}.", flush=True)
            status = 1
        # A service that has stopped shows its log itself.
        if status and process.poll() is None:
            run.show_log_tail(run.FUNCTIONS_LOG)
        return status


def check(folder: Path) -> int:
    """Runs schemathesis against the service, and returns its status. The folder takes what it leaves behind."""
    at = client.read_env(client.ENV_FILE)
    others = {**at, "CHAT_USER": f"{at['CHAT_USER']}-other"}
    text = DOCUMENT.read_text(encoding="utf-8")
    for example, real in (*ids_of_a_turn(at, TURN).items(), *ids_of_a_turn(others, OTHER_TURN).items()):
        if example not in text:
            raise SystemExit(f"{DOCUMENT.name} has no example {example}")
        text = text.replace(example, real)
    content = {**with_item_schemas(yaml.safe_load(text)), "servers": [{"url": at["CHAT_URL"]}]}
    document = folder / "openapi.json"
    document.write_text(json.dumps(content))
    command = [SCHEMATHESIS, "--config-file", HERE / "schemathesis.toml", "run", document, "--url", at["CHAT_URL"]]
    tokens = {"TOKEN": client.token_for(at), "OTHER_TOKEN": client.token_for(others)}
    environ = {**os.environ, **tokens, "CASES": str(HERE / "cases.py")}
    return subprocess.run(command + sys.argv[1:], cwd=folder, env=environ, timeout=TIMEOUT_SECONDS).returncode


def ids_of_a_turn(at: Mapping[str, str], examples: Mapping[str, str]) -> dict[str, str]:
    """Holds a turn, and returns its ids in the place of those of the examples."""
    *_, last = client.connect(at).say(run.CHARACTER, run.FIRST_MESSAGE)
    return {example: str(last.data[name]) for name, example in examples.items()}


@contextmanager
def service() -> Iterator[subprocess.Popen[str]]:
    """Runs `make run` on a free port, until it serves and then while the block runs. The block gets its process."""
    # The built-in model and a Redis of its own, whatever the caller has set for `make run`.
    own = ("RUN_ONCE", "REDIS_URL", "LLM_BASE_URL", "LLM_API_KEY", "LLM_MODEL")
    environ = {name: value for name, value in os.environ.items() if name not in own}
    environ |= {"PORT": str(run.free_port()), "LLM_PROVIDER": "echo", "PAGE": "off"}
    command = [sys.executable, client.ROOT / "scripts" / "run.py"]
    process = subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C reaches this process alone, which then ends the service.
        start_new_session=True,
        preexec_fn=run.END_WITH_PARENT,
    )
    try:
        said = []
        for line in process.stdout or ():
            said.append(line)
            if line.startswith("Serving;"):
                break
        else:
            sys.exit("".join(said) + "the service did not start")
        yield process
        if process.poll() is not None:
            sys.exit("the service has stopped:\n" + "".join(process.stdout or ()))
    finally:
        process.terminate()
        process.communicate()


def with_item_schemas(node: Any) -> Any:
    """Returns the document with the schemas of items where schemathesis looks for them."""
    if isinstance(node, list):
        return [with_item_schemas(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    if "x-itemSchema" in node:
        items = node["x-itemSchema"]
        node = {"schema": {"type": "array", "items": items}, "itemSchema": items, "examples": node["examples"]}
    return {name: with_item_schemas(inner) for name, inner in node.items()}


if __name__ == "__main__":
    sys.exit(main())
