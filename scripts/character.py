#!/usr/bin/env python3
"""Stores a character card with the service that `make run` serves (`make character FILE=card.png ID=mira`).

FILE is a card: JSON, a PNG or a CHARX archive. ID is what clients will call the character. Without both, the stored
characters are listed.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import client
from client import Chat, ChatError, NotReachable

# The largest event that AWS Lambda accepts.
LAMBDA_EVENT_BYTES = 6 * 1024 * 1024

USAGE = """\
Usage: make character FILE=card.png ID=mira
FILE is a character card (JSON, PNG or CHARX), and ID is what clients will call the character."""

SPECS = {
    "chara_card_v1": "Character Card V1",
    "chara_card_v2": "Character Card V2",
    "chara_card_v3": "Character Card V3",
    "plain": "the plain form, a prompt without a card",
}


def main(environ: Mapping[str, str], env_file: Path = client.ENV_FILE) -> int:
    file, character = environ.get("FILE") or "", environ.get("ID") or ""
    url = client.read_env(env_file).get("CHAT_URL")
    try:
        if not file and not character:
            say(USAGE)
            if url:
                say(f"Stored here: {', '.join(map(visible, Chat(url, token='').stored_characters())) or 'none'}.")
            return 0
        if not file or not character:
            raise ChatError(f"{'ID' if file else 'FILE'} is missing: make character FILE=card.png ID=mira")
        event = event_of(Path(file), character)
        if not url:
            raise NotReachable("`make run` is not running")
        answer = Chat(url, token="").invoke(client.PUT_CHARACTER, event)
    except NotReachable:
        say("The service is not running; start it with `make run`.")
        # Without a file, the list is an extra.
        return 1 if file else 0
    except ChatError as error:
        say(f"Sorry: {error}.")
        return 1
    for line in described(character, answer):
        say(visible(line))
    if len(event) > LAMBDA_EVENT_BYTES:
        say("Note: this file is too large for a deployment, where an event may have 6 MB: make its picture smaller.")
    say(f"\nTo talk to the character: CHARACTER={shlex.quote(character)} make chat")
    say("The page lists it when it is loaded again.")
    return 0


def event_of(file: Path, character: str) -> bytes:
    """Returns the event that stores a file. Raises ChatError if it cannot be read."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise ChatError(f"there is no file {file}") from None
    except OSError as error:
        raise ChatError(f"{file} cannot be read ({(error.strerror or 'unknown reason').lower()})") from None
    event = {"action": "put", "character_id": character, "card": base64.b64encode(content).decode()}
    try:
        return json.dumps(event, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ChatError("ID is not valid UTF-8") from None


def described(character: str, answer: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines of text about what the service has understood of a character."""
    spec = str(answer.get("spec"))
    yield f"{character} is stored. A character of that id that it replaces may be used for another minute."
    yield f"  name       {answer.get('name')}"
    yield f"  format     {SPECS.get(spec, spec)}"
    yield f"  fields     {', '.join(map(str, answer.get('fields') or ())) or 'none'}"
    yield f"  lorebook   {counted(answer.get('lore_entries'), 'entry', 'entries')}"
    yield f"  greetings  {answer.get('greetings')}"
    yield f"  prompt     about {counted(answer.get('fixed_tokens'), 'token', 'tokens')} before anything was said"
    for warning in answer.get("warnings") or ():
        yield f"  warning    {warning}"


def counted(number: Any, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def visible(text: str) -> str:
    """Returns text that a terminal shows and does not obey: names come from files of other people."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(os.environ))
