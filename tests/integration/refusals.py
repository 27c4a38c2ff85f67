"""Ways in which a real Redis refuses, and a socket for those that need a cluster or a moment's luck."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator

import redis

from deploy.redis import RedisServer
from tests.integration.explanations import wait_for

Refusal = Callable[[RedisServer, redis.Redis], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _out_of_memory(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    admin.config_set("maxmemory", 1)
    yield
    admin.config_set("maxmemory", 0)


@contextlib.contextmanager
def _no_disk(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """A snapshot that cannot be written: MISCONF."""
    # A folder stands where the snapshot goes. (Where it goes cannot be set while Redis runs: that is protected.)
    snapshot = server.folder / admin.config_get("dbfilename")["dbfilename"]
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()
    admin.config_set("save", "3600 1")
    admin.bgsave()
    wait_for(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")
    yield
    admin.config_set("save", "")
    snapshot.rmdir()


@contextlib.contextmanager
def _replica(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """READONLY."""
    admin.replicaof("127.0.0.1", 1)
    yield
    admin.replicaof("NO", "ONE")


@contextlib.contextmanager
def _replica_without_master(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """MASTERDOWN."""
    admin.config_set("replica-serve-stale-data", "no")
    with _replica(server, admin):
        yield
    admin.config_set("replica-serve-stale-data", "yes")


@contextlib.contextmanager
def _password(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """NOAUTH."""
    admin.acl_setuser("default", enabled=True, nopass=False, passwords=["+secret"], reset_passwords=False)
    admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    admin.acl_setuser("default", enabled=True, nopass=True)


@contextlib.contextmanager
def _forbidden(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    """NOPERM."""
    admin.execute_command("ACL", "SETUSER", "default", "-@all")
    yield
    admin.execute_command("ACL", "SETUSER", "default", "+@all")


@contextlib.contextmanager
def _scripts_forbidden(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
    admin.execute_command("ACL", "SETUSER", "default", "-hset")
    yield
    admin.execute_command("ACL", "SETUSER", "default", "+@all")


def _shared_key(key: str) -> Refusal:
    """WRONGTYPE, where it is not one explanation's."""

    @contextlib.contextmanager
    def replaced(server: RedisServer, admin: redis.Redis) -> Iterator[None]:
        saved = key + ":saved"
        if there := admin.exists(key):
            admin.rename(key, saved)
        admin.set(key, "something")
        yield
        admin.delete(key)
        if there:
            admin.rename(saved, key)

    return replaced


REFUSALS: dict[str, Refusal] = {
    "OOM": _out_of_memory,
    "MISCONF": _no_disk,
    "READONLY": _replica,
    "MASTERDOWN": _replica_without_master,
    "NOAUTH": _password,
    "NOPERM": _forbidden,
    "NOPERM in scripts": _scripts_forbidden,
    "WRONGTYPE of the list": _shared_key("gloss:index:ALL"),
    "WRONGTYPE of what waits": _shared_key("gloss:index:QUEUED"),
    "WRONGTYPE of what expires": _shared_key("gloss:expiry"),
}

LINES = (
    "LOADING Redis is loading the dataset in memory",
    "MOVED 1234 127.0.0.1:1",
    "ASK 1234 127.0.0.1:1",
    "CLUSTERDOWN Hash slot not served",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOREPLICAS Not enough good replicas to write.",
    "NOPROTO unsupported protocol version",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "UNKNOWNYET what no version says today",
    "ERR max number of clients reached",
)
"""Errors that a Redis may answer with, whatever it is asked."""


@contextlib.contextmanager
def always(line: str) -> Iterator[str]:
    """The address of a server that answers every command with one error."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                while head := self.rfile.readline():
                    for _ in range(int(head[1:])):
                        length = int(self.rfile.readline()[1:])
                        self.rfile.read(length + 2)
                    self.wfile.write(f"-{line}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join()


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
