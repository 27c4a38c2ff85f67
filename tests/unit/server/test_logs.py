"""Text from clients stays inside its line of the log."""

import io
import logging

from server.logs import Formatter


def logged(message: str, *arguments: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    logger = logging.Logger("test")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.error(message, *arguments, exc_info=error)
    return stream.getvalue()


def test_control_characters_are_escaped():
    assert logged("from %s", "a\nERROR forged\x1b[31m\u2028\u202eé") == (
        "ERROR from a\\nERROR forged\\x1b[31m\\u2028\\u202eé\n"
    )


def test_no_line_of_a_traceback_looks_like_a_record():
    try:
        raise ValueError("x\nERROR forged\x1b[31m")
    except ValueError as error:
        first, *rest = logged("failed", error=error).splitlines()
    assert first == "ERROR failed"
    assert rest
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in "".join(rest)
