"""Measures other libraries for chat memory, which do the same work on the same Redis.

The work: store a turn (two messages) in a session of a given length, and load as many messages. Rounds are interleaved
over all libraries, in a changing order, so that other load on the machine affects all of them alike. Before each
measured operation the session is restored, untimed, so that it never grows.

The libraries are imported only in this file and only where they are used: without them the other scripts still work.
"""

import importlib
import importlib.metadata
import json
import logging
import random
import secrets
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Callable

OPERATIONS = ("load", "commit")
WARM_UP_ROUNDS = 20
TTL_SECONDS = 86_400
MAX_MESSAGES = 100

# The same texts as in the sessions of the benchmark itself.
USER_TEXT = "今天过得怎么样？"
ASSISTANT_TEXT = "还不错，刚刚在海边散步，风很轻。你呢？"


class Unmeasurable(Exception):
    """A sentence that explains why something cannot be measured."""


def measure(url: str, rounds: int, session: int, write: Callable[[Mapping[str, Any]], None]) -> None:
    """Writes a line for each operation of each library, or a line that explains why a library is not measured."""
    # Not with a filter, because LangChain sets its own on import. Deprecated code is measured all the same.
    warnings.showwarning = lambda *_args, **_kwargs: None
    logging.disable(logging.WARNING)
    redis = needed("redis")
    client = redis.Redis.from_url(url, decode_responses=True)
    memories: list[Memory] = []
    try:
        client.ping()
        for kind in KINDS:
            try:
                memories.append(kind(url, client, session))
                check(memories[-1], session)
            except redis.ConnectionError:
                raise
            except Exception as error:  # Whatever a library raises, the others are measured.
                memories = [memory for memory in memories if not isinstance(memory, kind)]
                reason = str(error) if isinstance(error, Unmeasurable) else f"{type(error).__name__}: {error}"
                write({"peer": kind.name, "not_measured": reason})
        if not any(isinstance(memory, Bare) for memory in memories):
            raise Unmeasurable("the bare commands do not work on this Redis")
        write_figures(time_rounds(memories, rounds), memories, write)
    except redis.RedisError as error:
        raise Unmeasurable(f"Redis returned an error: {error}") from None
    finally:
        with suppress(redis.RedisError):
            remove(client)
        client.close()


def write_figures(samples: "Samples", memories: Sequence["Memory"], write: Callable[[Mapping[str, Any]], None]) -> None:
    for memory in memories:
        for operation in OPERATIONS:
            figures = summary(samples[memory.name, operation])
            bare = summary(samples[Bare.name, operation])
            figures["ratio_to_bare"] = round(figures["median_us"] / bare["median_us"], 2)
            version = importlib.metadata.version(memory.package)
            write({"peer": memory.name, "version": version, "operation": operation, **figures})


# --- statistics -----------------------------------------------------------------------------------------------


def summary(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Returns the median and the range of the middle 80%, in microseconds."""
    figures: dict[str, float] = {"samples": len(nanoseconds)}
    for name, share in (("median_us", 0.5), ("p10_us", 0.1), ("p90_us", 0.9)):
        figures[name] = round(quantile(nanoseconds, share) / 1000, 1)
    return figures


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the measured value below which this share of the values lies, as in the rest of the benchmark."""
    return sorted(values)[int((len(values) - 1) * share + 0.5)]


# --- rounds ---------------------------------------------------------------------------------------------------

Samples = dict[tuple[str, str], list[int]]


def time_rounds(memories: Sequence["Memory"], rounds: int) -> Samples:
    samples: Samples = {(memory.name, operation): [] for memory in memories for operation in OPERATIONS}
    order = [(memory, operation) for memory in memories for operation in OPERATIONS]
    # A different order in each round, so that no library always follows the slowest; the same orders in each run.
    dice = random.Random(1)
    for number in range(WARM_UP_ROUNDS + rounds):
        dice.shuffle(order)
        for memory, operation in order:
            memory.restore()
            act = memory.load if operation == "load" else memory.commit
            began = time.perf_counter_ns()
            act()
            took = time.perf_counter_ns() - began
            if number >= WARM_UP_ROUNDS:
                samples[memory.name, operation].append(took)
    return samples


def turn(number: int) -> tuple[str, str]:
    """Returns the message of the user and the reply."""
    return f"{USER_TEXT}{number}", f"{ASSISTANT_TEXT}{number}"


def check(memory: "Memory", session: int) -> None:
    """Raises Unmeasurable unless the library really stores and loads: wrong figures would be worse than none."""
    before = [text for number in range(session // 2) for text in turn(number)]
    after = before + list(turn(session // 2))
    for expected in (before, after):
        loaded = memory.texts(memory.load())
        if len(loaded) < session or loaded != expected[-len(loaded) :]:
            raise Unmeasurable(f"it loads other messages than were stored ({len(loaded)} of {len(expected)})")
        memory.commit()
    memory.restore()
    if memory.texts(memory.load()) != before:
        raise Unmeasurable("its session cannot be put back")


def needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unmeasurable(f"{module} cannot be imported ({error}); run bench/peers/peers.py setup") from None


def require_search(client: Any) -> None:
    try:
        client.execute_command("FT._LIST")
    except needed("redis").ResponseError:
        raise Unmeasurable("it needs RediSearch, which this Redis does not have") from None


# --- what is in Redis -----------------------------------------------------------------------------------------

# Each run uses its own names, so that its keys never collide with others, such as those of a run that was killed.
RUN_NAME = f"bench{secrets.token_hex(6)}"


def own_keys(client: Any, prefix: str) -> list[str]:
    return list(client.scan_iter(match=f"*{prefix}*", count=1000))


def remove(client: Any) -> None:
    """Deletes all keys and indexes of this run."""
    with suppress(needed("redis").ResponseError):
        for index in client.execute_command("FT._LIST"):
            if RUN_NAME in index:
                client.execute_command("FT.DROPINDEX", index)
    for key in own_keys(client, RUN_NAME):
        client.delete(key)


class Memory:
    """One way to keep a conversation in Redis. The constructor raises `Unmeasurable` if it is not available here."""

    name: str
    # The package whose version is reported.
    package: str

    def load(self) -> Any:
        """Returns the last messages of the session, in the form that the library gives them."""
        raise NotImplementedError

    def commit(self) -> None:
        """Stores one turn after those of the initial session."""
        raise NotImplementedError

    def texts(self, loaded: Any) -> list[str]:
        """Returns the loaded texts, oldest first."""
        raise NotImplementedError

    def restore(self) -> None:
        """Restores the initial session."""
        raise NotImplementedError


class Bare(Memory):
    """The bare commands, as the Python service sends them. Replies are not turned into objects."""

    name = "redis-py, bare commands"
    package = "redis"

    def __init__(self, url: str, client: Any, session: int) -> None:
        self._client, self._session = client, session
        self._messages, self._meta = f"chat:{RUN_NAME}:luna:messages", f"chat:{RUN_NAME}:luna:meta"
        for number in range(session // 2):
            self._turn = self._values(turn(number))
            self.commit()
        self._turn = self._values(turn(session // 2))
        self._backup = Backup(url, [self._messages, self._meta])

    def load(self) -> Any:
        return self._client.lrange(self._messages, 0, self._session - 1)

    def commit(self) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            for value in self._turn:
                pipeline.lpush(self._messages, value)
            pipeline.ltrim(self._messages, 0, MAX_MESSAGES - 1)
            pipeline.expire(self._messages, TTL_SECONDS)
            pipeline.hset(self._meta, mapping={"state": "ACTIVE", "last_active_at": str(int(time.time()))})
            pipeline.hincrby(self._meta, "message_count", 2)
            pipeline.hincrby(self._meta, "total_tokens", 40)
            pipeline.expire(self._meta, TTL_SECONDS)
            pipeline.execute()

    def texts(self, loaded: Any) -> list[str]:
        return [json.loads(value)["content"] for value in reversed(loaded)]

    def restore(self) -> None:
        self._backup.restore()

    @staticmethod
    def _values(texts: Sequence[str]) -> list[str]:
        """Returns messages in the format that this service and the Python one share."""
        return [
            json.dumps(
                {
                    "msg_id": str(uuid.uuid4()),
                    "role": role,
                    "content": text,
                    "timestamp": 1_732_430_000,
                    "token_count": 20,
                    "metadata": None,
                },
                ensure_ascii=False,
                separators=(",", ":"),
            )
            for role, text in zip(("user", "assistant"), texts)
        ]


class LangChainMemory(Memory):
    """The common part of the two histories of LangChain."""

    def __init__(self, history: Any, session: int) -> None:
        messages = needed("langchain_core.messages")
        self._history, self._human, self._ai = history, messages.HumanMessage, messages.AIMessage
        self._number = 0
        while self._number < session // 2:
            self.commit()
            self._number += 1

    def load(self) -> Any:
        return self._history.messages

    def commit(self) -> None:
        said, replied = turn(self._number)
        self._history.add_messages([self._human(content=said), self._ai(content=replied)])

    def texts(self, loaded: Any) -> list[str]:
        return [message.content for message in loaded]


class LangChainCommunity(LangChainMemory):
    """A list of JSON that is always loaded as a whole. Each message and its TTL are stored separately."""

    name = "langchain-community RedisChatMessageHistory"
    package = "langchain-community"

    def __init__(self, url: str, _client: Any, session: int) -> None:
        kind = needed("langchain_community.chat_message_histories.redis").RedisChatMessageHistory
        history = kind(RUN_NAME, url=url, ttl=TTL_SECONDS)
        super().__init__(history, session)
        self._backup = Backup(url, [history.key])

    def restore(self) -> None:
        self._backup.restore()


class LangChainRedis(LangChainMemory):
    """The successor of the former: a JSON document for each message, found with an index."""

    name = "langchain-redis RedisChatMessageHistory"
    package = "langchain-redis"

    def __init__(self, url: str, client: Any, session: int) -> None:
        kind = needed("langchain_redis").RedisChatMessageHistory
        require_search(client)
        prefix = f"{RUN_NAME}langchain"
        names = {"key_prefix": f"{prefix}:", "index_name": f"idx:{prefix}"}
        super().__init__(kind(RUN_NAME, redis_url=url, ttl=TTL_SECONDS, **names), session)
        self._documents = Documents(client, prefix)

    def restore(self) -> None:
        self._documents.restore()


class RedisVl(Memory):
    """A hash for each message, found with an index, without a TTL."""

    name = "redisvl MessageHistory"
    package = "redisvl"

    def __init__(self, url: str, client: Any, session: int) -> None:
        kind = needed("redisvl.extensions.message_history").MessageHistory
        require_search(client)
        prefix = f"{RUN_NAME}redisvl"
        self._history, self._session = kind(name=prefix, session_tag="session", redis_url=url), session
        for number in range(session // 2):
            self._history.store(*turn(number))
        self._turn = turn(session // 2)
        self._documents = Documents(client, prefix)

    def load(self) -> Any:
        return self._history.get_recent(top_k=self._session)

    def commit(self) -> None:
        self._history.store(*self._turn)

    def texts(self, loaded: Any) -> list[str]:
        return [message["content"] for message in loaded]

    def restore(self) -> None:
        self._documents.restore()


KINDS: tuple[type[Memory], ...] = (Bare, LangChainCommunity, LangChainRedis, RedisVl)


class Backup:
    """A few keys and the values that they had."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        # The reply of DUMP is binary, and a client that decodes it as text breaks it.
        self._client = needed("redis").Redis.from_url(url)
        self._values = {key: self._client.dump(key) for key in keys}

    def restore(self) -> None:
        for key, value in self._values.items():
            self._client.restore(key, TTL_SECONDS * 1000, value, replace=True)


class Documents:
    """The keys that an index covers. Newer ones are deleted to restore it, which also removes them from the index."""

    def __init__(self, client: Any, prefix: str) -> None:
        self._client, self._prefix = client, prefix
        self._kept = set(own_keys(client, prefix))

    def restore(self) -> None:
        for key in set(own_keys(self._client, self._prefix)) - self._kept:
            self._client.delete(key)
