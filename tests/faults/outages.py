"""Ways in which a real Redis is not there for a while. Each yields when it is broken, and mends it at the end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from deploy.redis import RedisServer
from tests.faults.stack import wait_for

Outage = Callable[[RedisServer, redis.Redis], contextlib.AbstractContextManager[None]]
"""Takes the server and a client of it."""

_DISK_BYTES = 48 << 20
_LOADING_KEYS = 100_000


@contextlib.contextmanager
def killed(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """kill -9, and a start as soon as the scenario has waited."""
    server.child.kill()
    yield
    server.start()


@contextlib.contextmanager
def stopped(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """SIGSTOP: connections are accepted by the kernel, and nobody answers."""
    os.kill(server.child.pid, signal.SIGSTOP)
    yield
    os.kill(server.child.pid, signal.SIGCONT)


@contextlib.contextmanager
def out_of_memory(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """`maxmemory` is reached."""
    admin.config_set("maxmemory", 1)
    yield
    admin.config_set("maxmemory", 0)


@contextlib.contextmanager
def wrong_password(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """The password has changed, and all connections were closed."""
    admin.execute_command("ACL", "SETUSER", "keeper", "on", "nopass", "+@all")
    with redis.Redis(unix_socket_path=str(server.socket), username="keeper", password="any") as keeper:  # noqa: S106
        keeper.acl_setuser("default", enabled=True, nopass=False, passwords=["+secret"], reset_passwords=False)
        keeper.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        yield
        keeper.acl_setuser("default", enabled=True, nopass=True)


@contextlib.contextmanager
def disk_full(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """The append-only file cannot grow: its disk is full where `small_disk` made one, else files may be no larger."""
    if server.folder.is_mount():
        filler = server.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        yield
        filler.unlink()
    else:
        largest = max(file.stat().st_size for file in server.folder.rglob("*") if file.is_file())
        _, hard = resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (largest, hard))
        yield
        resource.prlimit(server.child.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextlib.contextmanager
def loading(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """It was started again and reads its data, for ten seconds or more: LOADING."""
    keys = [f"filler:{number}" for number in range(_LOADING_KEYS)]
    admin.mset(dict.fromkeys(keys, b"x"))
    admin.bgrewriteaof()
    wait_for(lambda: not admin.info("persistence")["aof_rewrite_in_progress"])
    server.child.kill()
    yield
    before = dict(server.settings)
    server.settings |= {"key-load-delay": "100", "loading-process-events-interval-bytes": "1024"}
    server.start(timeout=60)
    server.settings = before
    admin.unlink(*keys)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own at `folder`, where one may be mounted."""
    folder.mkdir(parents=True)
    options = f"size={_DISK_BYTES}"
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
    )
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
