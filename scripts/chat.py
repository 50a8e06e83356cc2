#!/usr/bin/env python3
"""A conversation in the terminal with the service that `make run` serves (`make chat`).

CHARACTER=kai chooses whom to talk to. CHAT_URL and CHAT_TOKEN reach a service elsewhere.
"""

import os
import sys
from pathlib import Path
from typing import Mapping

import client
from client import Chat, ChatError, NotReachable, StreamCut

try:
    import readline  # noqa: F401 - importing it gives input() its line editing
except ImportError:
    pass

HELP = """\
  /session   what the service knows about this conversation
  /clear     forget this conversation
  /help      this list
  /quit      leave, as Ctrl-D does
Ctrl-C stops showing a reply; the service still finishes it and remembers it.
CHARACTER=kai make chat talks to somebody else."""


def main(environ: Mapping[str, str], env_file: Path = client.ENV_FILE) -> int:
    character = environ.get("CHARACTER") or "luna"
    try:
        chat = find_service(environ, env_file)
        greet(chat, character)
    except NotReachable:
        say("Nothing is running; start it with `make run`.")
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
            say("\n(Ctrl-D or /quit leaves.)")
            continue
        if line == "/quit":
            return 0
        if line:
            answer(chat, character, line)


def find_service(environ: Mapping[str, str], env_file: Path) -> Chat:
    url, token = environ.get("CHAT_URL"), environ.get("CHAT_TOKEN")
    if url and token:
        return Chat(url, token)
    if url or token:
        raise ChatError(f"{'CHAT_TOKEN' if url else 'CHAT_URL'} is missing; the two go together")
    run = client.read_env(env_file)
    if not all(run.get(name) for name in ("CHAT_URL", "CHAT_USER", "JWT_SECRET")):
        raise NotReachable("there is no run to talk to")
    return client.connect(run)


def greet(chat: Chat, character: str) -> None:
    try:
        known = f"{character} remembers {chat.session(character)['stored_messages']} messages"
    except client.ApiError as error:
        if error.code == "session_not_found":
            known = f"a new conversation with {character}"
        elif error.code == "memory_unavailable":
            known = f"{character} cannot remember anything now"
        else:
            raise
    say(f"{chat.url}: {known}. /help lists the commands.")


def answer(chat: Chat, character: str, line: str) -> None:
    """One line of the user's: a command or a message. Whatever goes wrong, the conversation can go on."""
    try:
        if line == "/help":
            say(HELP)
        elif line == "/session":
            say(f"({client.describe_session(chat.session(character))}.)")
        elif line == "/clear":
            say(f"({chat.clear(character).get('message')})")
        elif line.startswith("/"):
            say(f"({line.split()[0]} is not a command; /help lists them.)")
        else:
            show_reply(chat, character, line)
    except KeyboardInterrupt:
        say("\n(stopped showing it; the service still finishes it and remembers it)")
    except StreamCut as error:
        say(f"\n(Sorry: {error}.)")
    except ChatError as error:
        say(f"(Sorry: {error}.)")


def show_reply(chat: Chat, character: str, message: str) -> None:
    replying = False
    for event in chat.say(character, message):
        data = event.data
        if event.name == "start":
            if data.get("memory") == "unavailable":
                say("(memory is unavailable: the reply knows nothing of what was said before)")
            say(f"{character:<6}", end="")
            replying = True
        elif event.name == "error":
            kept = "what was shown is remembered" if data.get("saved") else "this turn is not remembered"
            say(f"{chr(10) if replying else ''}(Sorry: {data.get('error')} ({data.get('code')}); {kept}.)")
        elif not data.get("done"):
            say(str(data.get("content", "")), end="")
        else:
            say("")
            if data.get("finish_reason") == "length":
                say("(the reply reached its length limit)")
            elif data.get("finish_reason") == "content_filter":
                say("(the reply was ended by the model's content filter)")
            if not data.get("saved"):
                say("(this turn is not remembered)")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(os.environ))
    except BrokenPipeError:
        # Whoever read the output has left. Python would try to flush it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
