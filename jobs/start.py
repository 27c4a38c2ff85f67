"""What server and worker do alike when they start: how they log, and which variables they warn about."""

from __future__ import annotations

import difflib
import logging
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import AfterValidator
from redis.connection import parse_url

VARIABLES = frozenset(
    f"GLOSS_{name}"
    for name in (
        # Settings of the server, of the worker, and of the stack on one machine.
        *("HOST", "PORT", "METRICS_HOST", "METRICS_PORT", "WORKER_METRICS_PORT", "ALLOW_INSECURE"),
        *("API_KEYS_FILE", "AUDIT_FILE"),
        *("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "REDIS_URL", "LOG_LEVEL"),
        *("MODEL", "DEVICE", "DTYPE", "TENSOR_PARALLEL", "MAX_MODEL_BYTES", "THREADS", "WORKER_THREADS", "WORKER_NICE"),
        *("MAX_MESSAGE_BYTES", "MAX_PROMPTS", "MAX_CALLS", "MAX_BATCH_TOKENS", "MAX_BATCH_PROMPTS"),
        *(
            "MAX_WAITING_PROMPTS",
            "MAX_WAITING_TOKENS",
            "MAX_WAITING_SECONDS",
            "PREFIX_CACHE_BYTES",
            "CACHES_BY_TENANT",
        ),
        *("MAX_GENERATIONS", "MAX_GENERATION_BYTES", "MAX_QUEUED"),
        *("MAX_ATTEMPTS", "MAX_JOB_SECONDS", "JOB_SLICE_SECONDS", "GRACE_SECONDS", "RETENTION_SECONDS"),
        *("WATCH_SECONDS", "STORE_SECONDS", "HEALTH_SECONDS", "UNREAD_SECONDS"),
        *("ENGINE_KEY", "ENGINE_CONCURRENCY", "ENGINE_TIMEOUT_SECONDS", "ENGINE_PATIENCE_SECONDS", "ENGINE_PRICE"),
        "TOKENIZER",
        # Of a client, and of the probe.
        *("ADDRESS", "KEY", "CA", "CERTIFICATE", "CERTIFICATE_KEY", "TLS_NAME"),
        # Of the compose file, and of the tests.
        *("PROMETHEUS_PORT", "GRAFANA_PORT", "EXTRA", "IMAGE", "VLLM_MODEL", "WIKITEXT"),
    )
)
"""All that any part of Gloss reads: server and worker are often started with the same environment."""


def _checked_redis_url(url: str) -> str:
    try:
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:  # its text may hold a part of the password
        raise ValueError(
            "not the address of a Redis; write redis://HOST:6379/0, rediss://HOST:6379/0 or unix:///FOLDER/redis.sock"
        ) from None
    return url


RedisUrl = Annotated[str, AfterValidator(_checked_redis_url)]
"""A setting that redis-py can connect to. What is wrong with it is reported at the start, without the address."""


def _checked_engine_key(key: str) -> str:
    key = key.strip()  # a file's last line break comes along where the key is kept in one
    if not key.isascii() or not key.isprintable():
        raise ValueError("a key is sent in a header of HTTP, which has only printable ASCII characters")
    return key


EngineKey = Annotated[str, AfterValidator(_checked_engine_key)]
"""A setting that can be sent as ``Authorization: Bearer KEY``."""

# Kubernetes writes these for every service whose name begins with "gloss".
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)|_PORT$")

_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_ESCAPES |= {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x2028, 0x2029)}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """A warning for each of an environment's `names` that looks like a setting of Gloss and is none."""
    for name in sorted(names):
        known = name.upper()  # settings are read in any case
        if not known.startswith("GLOSS_") or known in VARIABLES or _SERVICE_LINK.search(known):
            continue
        nearest = difflib.get_close_matches(known, VARIABLES, n=1)
        advice = f"; did you mean {nearest[0]}?" if nearest else ""
        yield f"the variable {name} is no setting of Gloss and changes nothing{advice}"


def log_to_stderr(level: str) -> None:
    """Log what is at least as grave as `level`, one line each, in which nothing is obeyed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request to an engine; metrics count them


class LogFormatter(logging.Formatter):
    """Escapes control characters: a text that a caller sent can neither forge a line nor command the terminal.

    A traceback keeps its lines, which are indented so that none of them looks like an entry.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's own name
        """The entry's line."""
        return super().formatMessage(record).translate(_ESCAPES)

    def formatException(self, ei: Any) -> str:  # noqa: N802 -- logging's own name
        """The traceback below it."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 -- logging's own name
        """The stack below it."""
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    lines = (line.translate(_ESCAPES) for line in text.split("\n"))
    return textwrap.indent("\n".join(lines), "  ")
