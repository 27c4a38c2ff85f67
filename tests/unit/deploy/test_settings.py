"""The stack's settings."""

import os
import socket
from pathlib import Path

import pytest

from deploy.settings import PortTakenError, Settings, without_password
from deploy.stack import run
from deploy.state import hold


def test_a_taken_port_names_itself_and_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for variable in ("GLOSS_PORT", "GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT"):
            with monkeypatch.context() as patch:
                for name in ("GLOSS_PORT", "GLOSS_METRICS_PORT", "GLOSS_WORKER_METRICS_PORT"):
                    patch.setenv(name, "0")
                patch.setenv(variable, str(port))
                with pytest.raises(PortTakenError, match=rf"port {port} on 127.0.0.1(.|\n)*{variable}"):
                    Settings().check_ports()


def test_two_programs_on_one_port_is_an_error() -> None:
    with pytest.raises(PortTakenError, match="GLOSS_PORT and GLOSS_METRICS_PORT are both 5"):
        Settings(port=5, metrics_port=5, worker_metrics_port=0).check_ports()


def test_any_free_port_is_always_fine() -> None:
    Settings(port=0, metrics_port=0, worker_metrics_port=0).check_ports()


def test_a_second_stack_is_told_of_the_first_though_its_ports_are_taken_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with socket.socket() as taken, hold(tmp_path):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("GLOSS_PORT", str(taken.getsockname()[1]))
        assert run(tmp_path) == 2
    assert f"process {os.getpid()} already runs on {tmp_path}" in capsys.readouterr().err


def test_every_model_gets_a_worker() -> None:
    assert Settings(model="transformer, lstm").models == ["transformer", "lstm"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:secret@db:6379/0", "redis://:***@db:6379/0"),
        ("rediss://user:p%40ss@db/1", "rediss://user:***@db/1"),
        ("unix:///tmp/redis.sock?db=0", "unix:///tmp/redis.sock?db=0"),
    ],
)
def test_passwords_are_blotted_out(url: str, shown: str) -> None:
    assert without_password(url) == shown
