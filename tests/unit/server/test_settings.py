"""Settings: from the environment, checked, and shy about secrets."""

import pytest
from pydantic import ValidationError

from server.settings import Settings, complaints, is_loopback


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GLOSS_{name.upper()}", raising=False)


def test_the_defaults_listen_on_this_machine_only():
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 50051)
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 9464)
    assert settings.models == ("transformer",)


def test_variables_set_what_they_name(monkeypatch):
    monkeypatch.setenv("GLOSS_PORT", "0")
    monkeypatch.setenv("GLOSS_MODEL", " transformer, /models/gpt2 ,")
    settings = Settings()
    assert settings.port == 0
    assert settings.models == ("transformer", "/models/gpt2")


def test_a_wrong_value_is_named_by_its_variable_without_the_value(monkeypatch):
    monkeypatch.setenv("GLOSS_PORT", "secret-by-mistake")
    monkeypatch.setenv("GLOSS_GRACE_SECONDS", "-1")
    with pytest.raises(ValidationError) as caught:
        Settings()
    lines = complaints(caught.value)
    assert [line.split(":")[0] for line in lines] == ["GLOSS_PORT", "GLOSS_GRACE_SECONDS"]
    assert not any("secret" in line for line in lines)


FILES = [name for name, field in Settings.model_fields.items() if "Path" in str(field.annotation)]


@pytest.mark.parametrize("field", FILES)
def test_an_empty_file_name_is_not_the_current_folder(monkeypatch, field):
    monkeypatch.setenv(f"GLOSS_{field.upper()}", "")
    with pytest.raises(ValidationError) as caught:
        Settings()
    [line] = complaints(caught.value)
    assert line == f"GLOSS_{field.upper()}: it is set, but empty; name a file, or unset the variable"


@pytest.mark.parametrize(("names", "said"), [("", "no model"), (" , ", "no model"), ("lstm, lstm", "more than once")])
def test_models_are_counted_before_they_are_loaded(monkeypatch, names, said):
    monkeypatch.setenv("GLOSS_MODEL", names)
    with pytest.raises(ValidationError) as caught:
        Settings()
    [line] = complaints(caught.value)
    assert line.startswith("GLOSS_MODEL: ")
    assert said in line


def test_an_open_address_is_refused_unless_it_is_meant(monkeypatch):
    monkeypatch.setenv("GLOSS_HOST", "0.0.0.0")  # noqa: S104 -- the very address that is refused
    with pytest.raises(ValidationError) as caught:
        Settings()
    [line] = complaints(caught.value)
    assert line.startswith("GLOSS_HOST: 0.0.0.0 is reachable")
    monkeypatch.setenv("GLOSS_ALLOW_INSECURE", "1")
    assert Settings().allow_insecure


def test_the_password_of_redis_is_never_shown(monkeypatch):
    monkeypatch.setenv("GLOSS_REDIS_URL", "redis://:hunter2@example.org/0")
    assert "hunter2" not in repr(Settings())


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 -- the very address that is refused
        ("::", False),
        ("192.168.1.2", False),
        ("gloss.example.org", False),
    ],
)
def test_loopback(host, loopback):
    assert is_loopback(host) is loopback
