"""How server and worker start: variables that nobody reads, and logs in which nothing is obeyed."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

import deploy.settings
import server.settings
import worker.settings
from jobs.start import VARIABLES, LogFormatter, unknown_variables

CHECKOUT = Path(__file__).parents[3]


def test_every_variable_that_the_code_reads_is_known():
    fields = [
        field
        for module in (server.settings, worker.settings, deploy.settings)
        for field in module.Settings.model_fields
    ]
    read = {f"GLOSS_{field.upper()}" for field in fields}
    sources = [
        path for folder in ("gloss", "server", "worker", "ml", "deploy") for path in (CHECKOUT / folder).rglob("*.py")
    ]
    for path in (*sources, CHECKOUT / "docker-compose.yml"):
        read |= set(re.findall(r"\bGLOSS_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    assert read - VARIABLES == set()
    assert VARIABLES - read == {"GLOSS_WIKITEXT"}  # the tests' own


def test_a_misspelt_variable_is_named_with_the_nearest_known_one():
    [warning] = unknown_variables(["GLOSS_MAX_QUEUD", "GLOSS_PORT", "PATH", "gloss_model", "GLOSS_SERVICE_HOST"])
    assert warning.startswith("the variable GLOSS_MAX_QUEUD is no setting")
    assert warning.endswith("did you mean GLOSS_MAX_QUEUED?")
    [warning] = unknown_variables(["GLOSS_XYZZY_PLUGH_FOO"])
    assert "did you mean" not in warning


def logged(message: str, *, error: BaseException | None = None) -> list[str]:
    trace = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("name", logging.ERROR, __file__, 1, "saw %s", (message,), trace)
    return LogFormatter("%(levelname)s %(message)s").format(record).splitlines()


def test_a_log_line_is_one_line_and_commands_no_terminal():
    assert logged("a\nERROR forged \x1b[2J\x9b1m\r\u202e") == [r"ERROR saw a\nERROR forged \x1b[2J\x9b1m\r\u202e"]
    assert logged("café 🦊 [/] {0} %s") == ["ERROR saw café 🦊 [/] {0} %s"]


def test_a_traceback_can_forge_no_entry():
    try:
        raise ValueError("bad\nERROR forged\x1b[2J")
    except ValueError as error:
        first, *rest = logged("x", error=error)
    assert first == "ERROR saw x"
    assert all(line.startswith("  ") and "\x1b" not in line for line in rest)
    assert any("Traceback" in line for line in rest)


@pytest.mark.parametrize("settings", [server.settings.Settings, worker.settings.Settings, deploy.settings.Settings])
@pytest.mark.parametrize("url", ["somewhere", "http://127.0.0.1:6379", "redis://:p/secret@host:port", "redis://host:x"])
def test_an_address_that_is_no_redis_is_told_at_the_start_without_itself(
    settings: type[BaseSettings], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOSS_REDIS_URL", url)
    with pytest.raises(ValidationError, match="not the address of a Redis; write redis://HOST") as refused:
        settings()
    messages = [item["msg"] for item in refused.value.errors(include_input=False, include_url=False)]
    assert not any(url in message or "secret" in message for message in messages)


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "rediss://u:p@host", "unix:///run/redis.sock?db=1"])
def test_every_kind_of_redis_is_taken(url: str) -> None:
    assert server.settings.Settings(redis_url=url).redis_url == url


BOTH = pytest.mark.parametrize("settings", [server.settings.Settings, worker.settings.Settings])


@BOTH
@pytest.mark.parametrize("key", ["s\u00e9cret", "se\ncret", "se\0cret", "\u79d8\u5bc6"])
def test_a_key_that_no_header_can_hold_is_told_at_the_start_without_itself(
    settings: type[BaseSettings], key: str
) -> None:
    with pytest.raises(ValidationError, match="printable ASCII") as refused:
        settings(engine_key=key)
    messages = [item["msg"] for item in refused.value.errors(include_input=False, include_url=False)]
    assert not any(key in message for message in messages)


@BOTH
def test_a_key_from_a_file_is_taken_without_its_line_break(settings: type[BaseSettings]) -> None:
    assert settings(engine_key=" sk-a.b_c=\r\n").engine_key == "sk-a.b_c="  # type: ignore[attr-defined]


@BOTH
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
def test_no_setting_is_infinite(settings: type[BaseSettings], value: str) -> None:
    numbers = [name for name, field in settings.model_fields.items() if "float" in str(field.annotation)]
    assert "engine_price" in numbers
    for name in numbers:
        with pytest.raises(ValidationError):
            settings(**{name: value})
