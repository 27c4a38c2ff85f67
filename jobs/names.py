"""Names that server and worker must agree on. The Lua scripts of `jobs/lua/prelude.lua` spell the same keys."""

from __future__ import annotations

import re
import secrets
import time
from urllib.parse import quote

TASK = "worker.tasks.run_explanation"
"""The only function that a job may name. Its one argument is the explanation's id."""

_RESOURCE = re.compile(r"explanations/([0-9a-f]{32})")


def queue(model: str) -> str:
    """The RQ queue of one model. A worker listens to one queue only, because RQ loses jobs of a second one."""
    return "gloss-" + quote(model, safe="-._/")


def new_id() -> str:
    """A fresh id: 14 hexadecimal digits of microseconds, so that ids sort by age, and 18 that nobody can guess."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


def resource(explanation_id: str) -> str:
    """The resource name of an id."""
    return f"explanations/{explanation_id}"


def parse_resource(name: str) -> str | None:
    """The id in a resource name, or None where it is not one of ours."""
    match = _RESOURCE.fullmatch(name)
    return match[1] if match else None


def record(explanation_id: str) -> str:
    """Hash: all that is known of an explanation, its checkpoint apart."""
    return f"gloss:explanation:{explanation_id}"


def checkpoint(explanation_id: str) -> str:
    """String: where an interrupted attempt may be resumed."""
    return f"gloss:checkpoint:{explanation_id}"


def events(explanation_id: str) -> str:
    """Stream: one entry a change, naming the state after it; ``DELETED`` ends it."""
    return f"gloss:events:{explanation_id}"


def index(state: str = "ALL") -> str:
    """Sorted set of ids, all with score 0, so that they are kept in the order of the ids: by age."""
    return f"gloss:index:{state}"


def throughput(digest: str, method: str) -> str:
    """Hash: tokens, and the seconds that workers took for them, of late, by one method on the model of a digest."""
    return f"gloss:throughput:{digest}:{method}"


def workers(queue_name: str) -> str:
    """Sorted set of ``DIGEST WORKER`` by the time, in ms, until which that worker counts as alive."""
    return f"gloss:workers:{queue_name}"
