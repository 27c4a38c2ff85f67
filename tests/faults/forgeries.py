"""What somebody who reaches Redis may write there to run code, or to confuse: each kind forges one explanation."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from jobs import names
from tests.integration.corruptions import CORRUPTIONS

Forgery = Callable[[redis.Redis, str], object]
"""Takes a client and the key of an explanation that waits."""

HUGE_BYTES = 64 << 20


class _Touch:
    """Unpickled, it runs a command."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self._command,)


def forgeries(canary: Path, queue: str) -> dict[str, Forgery]:
    """All kinds. What any of them runs creates the file `canary`."""
    command = f"touch {canary}"
    pickled = pickle.dumps(_Touch(command))
    task = [names.TASK, None]

    def job(**fields: bytes | str) -> Forgery:
        return lambda client, key: client.hset(f"rq:job:{key}", mapping=fields)

    def called(function: str, *arguments: str) -> Forgery:
        return job(data=json.dumps([function, None, list(arguments), {}]).encode())

    def record(**fields: bytes | str) -> Forgery:
        return lambda client, key: client.hset(names.record(key), mapping=fields)

    code = {
        "the job's data is a pickle": job(data=pickled),
        "the job's data is a compressed pickle": job(data=zlib.compress(pickled)),
        "the job calls os.system": called("os.system", command),
        "the job calls exec": called("builtins.exec", f"import os; os.system({command!r})"),
        "the job calls subprocess": called("subprocess.check_output", command),
        "the job imports a module of ours": called("deploy.stack.main"),
        "the job has an instance": job(data=json.dumps(["run", "os", [command], {}]).encode()),
        "the job names another explanation": job(data=json.dumps([*task, ["0" * 32], {}]).encode()),
        "the job has more arguments": lambda client, key: client.hset(
            f"rq:job:{key}", "data", json.dumps([*task, [key, command], {}])
        ),
        "a callback on success": job(success_callback_name="os.system", success_callback_timeout="1"),
        "a callback on failure": job(failure_callback_name="os.system", failure_callback_timeout="1"),
        "a callback when stopped": job(stopped_callback_name="os.system"),
        "a webhook": job(success_webhook="http://127.0.0.1:1/", failure_webhook="http://127.0.0.1:1/"),
        "a pickle as the job's meta": job(meta=pickled),
        "a pickle as the job's result": job(result=pickled, return_value=pickled),
        "another serializer": job(serializer="pickle", serializer_name="rq.serializers.PickleSerializer"),
        "a job that depends on others": lambda client, key: (
            client.sadd(f"rq:job:{key}:dependents", key),
            client.hset(f"rq:job:{key}", "dependency_ids", json.dumps([key])),
        ),
        "a pickle as the checkpoint": lambda client, key: client.set(names.checkpoint(key), pickled),
        "pickles in the record": record(partial=pickled, progress=pickled, result=pickled),
        "Lua in the record": record(
            spec_hash="'..redis.call('flushall')..'", queue="]] redis.call('flushall') --[[", gone="%s%n"
        ),
        "a shell's words in the record": record(method=f"$({command})", preview=f"`{command}`"),
    }
    confusing = {
        "it is in a worker's hands": lambda client, key: client.zadd(f"rq:wip:{queue}", {f"{key}:forged": 2e9}),
        "it waits ten times": lambda client, key: client.lpush(f"rq:queue:{queue}", *[key] * 10),
        "its events say that it has ended": lambda client, key: client.xadd(names.events(key), {"state": "SUCCEEDED"}),
        "a state of a later version": record(state="PAUSED"),
        "it is on the list of those that ended": lambda client, key: client.zadd(names.index("SUCCEEDED"), {key: 0}),
        "a checkpoint of the largest size": lambda client, key: client.set(
            names.checkpoint(key), struct.pack("<Q", 2**63) * 1000
        ),
    }
    huge = {
        f"its {field} has {HUGE_BYTES >> 20} MiB": record(**{field: b"x" * HUGE_BYTES})
        for field in ("spec", "preview", "attempt", "state")
    }
    return {**code, **confusing, **huge, **CORRUPTIONS}


COMMANDS = (
    b"",
    b"\x80\x04\x95",
    b"[]",
    b"{}",
    b'{"command": "nothing"}',
    b'{"command": "stop-job", "job_id": "nothing"}',
    b'{"command": "stop-job"}',
    b'{"command": 5, "job_id": []}',
)
"""What is no command of RQ's, or stops nothing."""
