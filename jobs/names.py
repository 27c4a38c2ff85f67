"""Names that server and worker must agree on. The Lua scripts of `jobs/lua/prelude.lua` spell the same keys."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from urllib.parse import quote

TASK = "worker.tasks.run_explanation"
"""The only function that a job may name. Its one argument is the explanation's key."""

OWNED = "owned"
"""In place of an owner, in an index's name: all explanations that have one."""

_RESOURCE = re.compile(r"explanations/([0-9a-f]{32})")
_KEY = re.compile(r"([0-9a-f]{32})(?:-([0-9a-f]{32}))?")


def queue(model: str) -> str:
    """The RQ queue of one model. A worker listens to one queue only, because RQ loses jobs of a second one."""
    return "gloss-" + quote(model, safe="-._/")


def new_id() -> str:
    """A fresh id: 14 hexadecimal digits of microseconds, so that ids sort by age, and 18 that nobody can guess."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


def owner(tenant: str) -> str:
    """The owner of a tenant's explanations: 32 hexadecimal digits, or "" of the tenant without a name."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:32] if tenant else ""


def key(explanation_id: str, owner: str) -> str:
    """What an explanation is stored under, and its job's id: ``ID-OWNER``, or its id where it has no owner.

    Without knowing the owner one cannot even name the record. Keys sort by age, as ids do.
    """
    return f"{explanation_id}-{owner}" if owner else explanation_id


def parse_key(key: str) -> tuple[str, str] | None:
    """The id and the owner in a key, or None where it is not one of ours."""
    match = _KEY.fullmatch(key)
    return (match[1], match[2] or "") if match else None


def resource(key: str) -> str:
    """The resource name of an explanation, which does not reveal its owner."""
    return f"explanations/{key.partition('-')[0]}"


def parse_resource(name: str) -> str | None:
    """The id in a resource name, or None where it is not one of ours."""
    match = _RESOURCE.fullmatch(name)
    return match[1] if match else None


def record(key: str) -> str:
    """Hash: all that is known of an explanation, its checkpoint apart."""
    return f"gloss:explanation:{key}"


def checkpoint(key: str) -> str:
    """String: where an interrupted attempt may be resumed."""
    return f"gloss:checkpoint:{key}"


def events(key: str) -> str:
    """Stream: one entry a change, naming the state after it; ``DELETED`` ends it."""
    return f"gloss:events:{key}"


def index(state: str = "ALL", owner: str = "") -> str:
    """Sorted set of one owner's keys, or of all `OWNED` ones, with score 0, so that they are in the order of age."""
    return f"gloss:index:{owner}:{state}" if owner else f"gloss:index:{state}"


def throughput(digest: str, method: str) -> str:
    """Hash: recent tokens, and the seconds that workers took for them, by one method on the model of a digest."""
    return f"gloss:throughput:{digest}:{method}"


def workers(queue_name: str) -> str:
    """Sorted set of ``DIGEST WORKER`` by the time, in ms, until which that worker counts as alive."""
    return f"gloss:workers:{queue_name}"
