#!/usr/bin/env python3
"""Chats in the terminal with the service that `make run` serves (`make chat`).

CHARACTER selects the character (default luna). CHAT_URL and CHAT_TOKEN select a service elsewhere.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import client
from client import ApiError, Chat, ChatError, Event, NotReachable, StreamCut

with suppress(ImportError):
    import readline  # noqa: F401 - importing it gives input() its line editing

HELP = """\
  /resume    come back to a reply that is still running
  /session   show the state of this conversation
  /clear     clear this conversation
  /help      show this list
  /quit      leave (or press Ctrl-D)
Ctrl-C stops a reply; what you have seen of it is stored. A connection that is lost comes back by itself.
To chat with another character, run CHARACTER=kai make chat."""


def main(environ: Mapping[str, str], env_file: Path = client.ENV_FILE) -> int:
    character = environ.get("CHARACTER") or "luna"
    try:
        chat = find_service(environ, env_file)
        greeting = greet(chat, character)
    except NotReachable:
        say("The service is not running; start it with `make run`.")
        return 1
    except ChatError as error:
        say(f"Sorry: {error}.")
        return 1
    while True:
        try:
            line = input("you   " if sys.stdin.isatty() else "").strip()
        except EOFError:
            say("" if sys.stdin.isatty() else "Bye.")
            return 0
        except KeyboardInterrupt:
            say("\n(Press Ctrl-D or type /quit to leave.)")
            continue
        if line == "/quit":
            return 0
        if not is_utf8(line):
            say("(Sorry: this line is not valid UTF-8, so it was not sent.)")
        elif line:
            greeting = answer(chat, character, line, greeting)


def find_service(environ: Mapping[str, str], env_file: Path) -> Chat:
    url, token = environ.get("CHAT_URL"), environ.get("CHAT_TOKEN")
    if url and token:
        return Chat(url, token)
    if url or token:
        raise ChatError(f"{'CHAT_TOKEN' if url else 'CHAT_URL'} is missing; set both CHAT_URL and CHAT_TOKEN")
    run = client.read_env(env_file)
    if not all(run.get(name) for name in ("CHAT_URL", "CHAT_USER", "JWT_SECRET")):
        raise NotReachable("`make run` is not running")
    return client.connect(run)


def greet(chat: Chat, character: str) -> int | None:
    """Shows the state of the conversation. Returns the number of the character's greeting if that was shown."""
    is_new = False
    try:
        known = f"{character} remembers {chat.session(character)['stored_messages']} messages"
    except ApiError as error:
        if error.code == "session_not_found":
            known = f"a new conversation with {character}"
            is_new = True
        elif error.code == "memory_unavailable":
            known = f"the memory of {character} is unavailable"
        else:
            raise
    say(f"{chat.url}: {known}. /help lists the commands.")
    return show_greeting(chat, character) if is_new else None


def show_greeting(chat: Chat, character: str) -> int | None:
    """Shows how the character begins a new conversation. Returns the number of that greeting, or None without one."""
    greeting = chat.history(character).get("greeting")
    if not greeting:
        return None
    say(f"{character:<5} {greeting}")
    return 0


def is_utf8(line: str) -> bool:
    """Returns whether a line was valid UTF-8 when it was read: invalid bytes are read as lone surrogates."""
    try:
        line.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer(chat: Chat, character: str, line: str, greeting: int | None) -> int | None:
    """Handles one line of input, a command or a message. Errors are shown, and the conversation goes on.

    `greeting` is the number of the greeting that no stored turn has answered yet. Returns the same for the next line.
    """
    reply = Reply()
    try:
        if line == "/help":
            say(HELP)
        elif line == "/session":
            say(f"({client.describe_session(chat.session(character))}.)")
        elif line == "/clear":
            say(f"({chat.clear(character).get('message')})")
            return show_greeting(chat, character)
        elif line == "/resume":
            show_or_stop(chat, character, reply, chat.resume(character))
            if not reply.began:
                say("(No reply is running.)")
        elif line.startswith("/"):
            say(f"({line.split()[0]} is not a command; /help lists them.)")
        else:
            show_or_stop(chat, character, reply, chat.say(character, line, greeting))
    except KeyboardInterrupt:
        say("\n(stopped showing the reply; the service still completes and stores it)")
    except StreamCut as error:
        say(f"\n(Sorry: {error}.)")
    except ChatError as error:
        say(f"(Sorry: {error}.)")
    return None if reply.saved else greeting


@dataclass
class Reply:
    """What is known of a reply: whether a frame is shown, its turn, the id of the last frame, whether it is stored."""

    began: bool = False
    turn: str = ""
    seen: str = ""
    saved: bool = False


def show_or_stop(chat: Chat, character: str, reply: Reply, events: Iterator[Event]) -> None:
    """Shows a reply. Ctrl-C stops it, and the rest is shown: what was on its way, and whether the turn is stored."""
    try:
        show_reply(character, reply, events)
    except KeyboardInterrupt:
        try:
            reply.turn = chat.stop(character, reply.turn)
        except ApiError as error:
            if error.code != "turn_not_found":
                raise
            # It has just ended, or it is not recorded.
            raise KeyboardInterrupt from None
        show_reply(character, reply, chat.resume(character, reply.turn, reply.seen))


def show_reply(character: str, reply: Reply, events: Iterator[Event]) -> None:
    for event in events:
        data = event.data
        is_first = not reply.began
        reply.began, reply.seen = True, event.id
        reply.saved = data.get("saved") is True
        if event.name == "start":
            reply.turn = str(data.get("turn_id", ""))
            if data.get("memory") == "unavailable":
                say("(memory is unavailable: the reply does not take earlier messages into account)")
            say(f"{character:<5} ", end="")
        elif event.name == "error":
            kept = "the text shown was saved" if data.get("saved") else "this turn was not saved"
            say(f"{'' if is_first else chr(10)}(Sorry: {data.get('error')} ({data.get('code')}); {kept}.)")
        elif not data.get("done"):
            say(str(data.get("content", "")), end="")
        else:
            say("")
            if data.get("finish_reason") == "stopped":
                say("(stopped)")
            elif data.get("finish_reason") == "length":
                say("(the reply reached its length limit)")
            elif data.get("finish_reason") == "content_filter":
                say("(the model's content filter ended the reply)")
            if not data.get("saved"):
                say("(this turn was not saved)")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    if isinstance(sys.stdin, io.TextIOWrapper):
        # By default, the first invalid byte would end the program, and take with it the valid lines read with it.
        sys.stdin.reconfigure(errors="surrogateescape")
    try:
        sys.exit(main(os.environ))
    except BrokenPipeError:
        # The reader of the output has exited. Without this, Python would flush to the closed pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
