"""The functions that the template must deploy, and what each may do.

A new function needs one entry here; the tests follow. Written by hand, so that a mistake in the template shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """One function, as an independent statement of what the template says about it."""

    # Name of its folder, its binary, its log group and its new-version alarm.
    name: str
    # Methods and paths that the gateway forwards to it. A function without any is invoked with IAM rights, and needs no
    # tokens.
    routes: tuple[tuple[str, str], ...]
    # Parameters that bound, in milliseconds, what one invocation waits for; secrets and published keys come on top.
    waits_for: tuple[str, ...]
    # Its user in the stack's cache, and that user's keys and commands: those of a cluster client and of its scripts.
    cache_user: str
    cache_rights: str
    # Parameters with the ARNs of secrets that it alone reads.
    own_secrets: tuple[str, ...] = ()
    # Alarms that roll its deployment back, besides the one on its new version.
    rolls_back_on: tuple[str, ...] = ()
    # Whether the gateway forwards the response while it is produced.
    streams: bool = False
    # Memory, which also decides its share of a processor.
    memory_megabytes: int = 128

    @property
    def stem(self) -> str:
        """How the names of its resources begin: ChatStream for chat-stream."""
        return "".join(part.capitalize() for part in self.name.split("-"))

    @property
    def resource(self) -> str:
        """Its logical id in the template."""
        return self.stem + "Function"

    @property
    def new_version_alarm(self) -> str:
        """The logical id of the alarm on its new version."""
        return self.stem + "NewVersionAlarm"


FUNCTIONS = (
    Function(
        name="chat-stream",
        routes=(("post", "/api/v1/chat/stream"), ("get", "/api/v1/chat/stream")),
        waits_for=("MemoryReadTimeoutMs", "LlmFirstTokenTimeoutMs", "LlmIdleTimeoutMs", "MemoryWriteTimeoutMs"),
        cache_user="turns",
        cache_rights="on ~chat:* ~user:* ~character:* -@all +ping +cluster|slots "
        "+eval +evalsha +time +get +set +del +exists +expire +lrange +lindex +llen +lpush +ltrim +rpop "
        "+hget +hmget +hset +hdel +strlen +getrange +setrange +zadd +zrem +zremrangebyscore +zrevrange +ttl",
        own_secrets=("LlmApiKeySecretArn",),
        rolls_back_on=("UpstreamErrorsAlarm", "CommitFailuresAlarm", "MemoryDownAlarm"),
        streams=True,
    ),
    Function(
        name="stop-stream",
        routes=(("delete", "/api/v1/chat/stream"),),
        waits_for=("MemoryReadTimeoutMs", "MemoryReadTimeoutMs", "MemoryWriteTimeoutMs"),
        cache_user="stop",
        cache_rights="on ~chat:* ~user:* -@all +ping +cluster|slots +eval +evalsha +time +hmget +hset +zrevrange",
    ),
    Function(
        name="clear-history",
        routes=(("delete", "/api/v1/chat/history"),),
        waits_for=("MemoryWriteTimeoutMs",),
        cache_user="clear",
        cache_rights="on ~chat:* ~user:* -@all +ping +cluster|slots "
        "+eval +evalsha +time +del +exists +get +set +lrange +ltrim +hmget +hset +zrem",
    ),
    Function(
        name="session-meta",
        routes=(
            ("get", "/api/v1/chat/session"),
            ("patch", "/api/v1/chat/session"),
            ("get", "/api/v1/chat/sessions"),
        ),
        waits_for=("MemoryReadTimeoutMs", "MemoryWriteTimeoutMs"),
        cache_user="session",
        cache_rights="on ~chat:* ~user:* -@all +ping +cluster|slots "
        "+eval +evalsha +time +exists +get +llen +lrange +hmget +hset +ttl +zrevrangebyscore",
    ),
    Function(
        name="read-history",
        routes=(("get", "/api/v1/chat/history"),),
        # The messages, and the character's greeting if there are none.
        waits_for=("MemoryReadTimeoutMs", "MemoryReadTimeoutMs"),
        cache_user="history",
        cache_rights="on ~chat:* ~character:* -@all +ping +cluster|slots +eval +evalsha +time +lrange +get",
    ),
    Function(
        name="user-data",
        routes=(("get", "/api/v1/chat/data"), ("delete", "/api/v1/chat/data")),
        # One of many: it waits once for each session. Its timeout is for a thousand that are well.
        waits_for=("MemoryReadTimeoutMs", "MemoryWriteTimeoutMs"),
        cache_user="data",
        cache_rights="on ~chat:* ~user:* -@all +ping +cluster|slots "
        "+eval +evalsha +time +get +set +unlink +exists +llen +lrange +hmget +getrange +ttl +zrem +zrevrange +zcard",
        streams=True,
    ),
    Function(
        name="read-character",
        routes=(("get", "/api/v1/chat/character"),),
        waits_for=("MemoryReadTimeoutMs",),
        cache_user="card",
        # Its only script is the breaker's probe.
        cache_rights="on ~character:* -@all +ping +cluster|slots +eval +get",
    ),
    Function(
        name="put-character",
        routes=(),
        # The character and the list of ids are written one after the other.
        waits_for=("MemoryWriteTimeoutMs", "MemoryWriteTimeoutMs"),
        cache_user="shelf",
        cache_rights="on ~character:* -@all +ping +cluster|slots "
        "+eval +evalsha +time +get +set +del +zadd +zrem +zrangebylex",
        memory_megabytes=256,
    ),
)
# Each route once: the method, the path and the function behind it.
ROUTES = tuple((method, path, function) for function in FUNCTIONS for method, path in function.routes)
