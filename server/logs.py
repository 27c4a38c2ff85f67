"""The log: one line a record, whatever the text in it."""

from __future__ import annotations

import logging
import re
import sys
from types import TracebackType

# C0, DEL and C1, line and paragraph separators, and what turns the direction of text.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def log_to_stderr(level: str) -> None:
    """Write records from `level` on to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


class Formatter(logging.Formatter):
    """Escapes control characters, which text from clients may hold: it can neither forge a line nor colour one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The record's line."""
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802
        """A traceback, indented, so that no line of it looks like a record's."""
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


def escaped(text: str) -> str:
    r"""`text` with ``\n``, ``\x1b`` and the like in place of control characters."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
