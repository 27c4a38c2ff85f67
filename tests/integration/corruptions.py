"""Ways in which what Redis holds of one explanation can be spoiled: by another program, a careless hand, or a disk."""

import random
import zlib
from collections.abc import Callable, Iterator

from redis import Redis

from jobs import names

Corruption = Callable[[Redis, str], object]

_NOT_NUMBERS = {
    "a word": b"many",
    "nothing": b"",
    "negative": b"-1",
    "the largest": str(2**63 - 1).encode(),
    "larger": b"9" * 30,
    "a fraction": b"1.5",
    "another alphabet": "٣".encode(),
    "a blank": b" 1",
    "NUL": b"1\0",
}
_MESSAGES = ("spec", "model", "progress", "partial", "error", "result")


def _keys(explanation_id: str) -> dict[str, str]:
    return {
        "record": names.record(explanation_id),
        "checkpoint": names.checkpoint(explanation_id),
        "events": names.events(explanation_id),
        "job": f"rq:job:{explanation_id}",
        "executions": f"rq:executions:{explanation_id}",
    }


def _fields() -> Iterator[tuple[str, Corruption]]:
    def write(field: str, value: bytes) -> Corruption:
        return lambda client, id_: client.hset(names.record(id_), field, value)

    def drop(field: str) -> Corruption:
        return lambda client, id_: client.hdel(names.record(id_), field)

    noise = random.Random(0)
    for field in ("attempt", "lost", "created"):
        for kind, value in _NOT_NUMBERS.items():
            yield f"{field} is {kind}", write(field, value)
    for field in _MESSAGES:
        yield f"{field} is noise", write(field, b"\xff" + noise.randbytes(200))
        yield f"{field} is text", write(field, b"not what it was")
        yield f"{field} is empty", write(field, b"")
    yield "spec is huge", write("spec", bytes(65 << 20))
    yield (
        "spec is cut",
        lambda client, id_: client.hset(names.record(id_), "spec", client.hget(names.record(id_), "spec")[:-3]),
    )
    for value in (b"DONE", b"", b"\xff\xfe", b"UNSPECIFIED", b"queued"):
        yield f"state is {value!r}", write("state", value)
    for field in ("queue", "spec_hash", "token", "ended", "expires", "started", "method", "preview"):
        yield f"{field} is noise", write(field, noise.randbytes(40))
    for field in ("spec", "model", "state", "attempt", "lost", "created", "queue", "spec_hash", "method", "preview"):
        yield f"no {field}", drop(field)


def _types() -> Iterator[tuple[str, Corruption]]:
    makers: dict[str, Callable[[Redis, str], object]] = {
        "string": lambda client, key: client.set(key, b"\xffsomething"),
        "list": lambda client, key: client.rpush(key, "something"),
        "set": lambda client, key: client.sadd(key, "something"),
        "sorted set": lambda client, key: client.zadd(key, {"something": 1}),
        "hash": lambda client, key: client.hset(key, "something", "else"),
        "stream": lambda client, key: client.xadd(key, {"something": "else"}),
    }

    def replace(part: str, make: Callable[[Redis, str], object]) -> Corruption:
        def act(client: Redis, explanation_id: str) -> None:
            key = _keys(explanation_id)[part]
            client.delete(key)
            make(client, key)

        return act

    for part in _keys(""):
        for kind, make in makers.items():
            yield f"{part} is a {kind}", replace(part, make)
        yield f"no {part}", lambda client, id_, part=part: client.delete(_keys(id_)[part])
    yield (
        "the stream is full",
        lambda client, id_: client.xadd(names.events(id_), {"state": "QUEUED"}, id=f"{2**64 - 1}-{2**64 - 1}"),
    )


def _jobs() -> Iterator[tuple[str, Corruption]]:
    def write(field: str, value: bytes) -> Corruption:
        return lambda client, id_: client.hset(f"rq:job:{id_}", field, value)

    for value in (b"", b"\xff\x00", b"{}", b"[]", b"7", b'["os.system", null, ["true"], {}]', b'["a", null, 5, null]'):
        yield f"the job's data is {value!r}", write("data", value)
    yield "the job's data swells", write("data", zlib.compress(bytes(1 << 24)))
    for field in ("origin", "created_at", "enqueued_at", "status", "timeout", "meta", "worker_name", "result_ttl"):
        yield f"the job's {field} is noise", write(field, b"\xff\xfe\xfd")
        yield f"the job's {field} is text", write(field, b"nonsense")
    yield "the job has no data", lambda client, id_: client.hdel(f"rq:job:{id_}", "data")


CORRUPTIONS: dict[str, Corruption] = dict((*_fields(), *_types(), *_jobs()))
