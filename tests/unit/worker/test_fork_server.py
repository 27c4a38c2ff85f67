"""The process that children are forked from: warm, single-threaded, and nobody's end but its own children's."""

import os
import signal
import subprocess
import sys

import pytest

from tests.fixtures.processes import CHECKOUT
from tests.integration.explanations import wait_for
from worker.model_process import ChildLostError, ModelProcess

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children are not forked"),
]

PRELOAD = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import torch

def used(*_):
    raise SystemExit("CUDA was used, which no forked child can do after that")

torch.cuda._lazy_init = torch.cuda.device_count = used
import worker.child
worker.child.preload()
assert not torch.cuda.is_initialized()
print(len(os.listdir("/proc/self/task")))
"""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def child(redis_url):
    child = ModelProcess(["tests.unit.worker.scripted_child", "succeed", redis_url])
    yield child
    child.stop()


def test_what_is_imported_before_a_fork_starts_no_thread_and_asks_for_no_gpu():
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    found = subprocess.run([sys.executable, "-c", PRELOAD], cwd=CHECKOUT, env=env, capture_output=True, check=False)
    assert found.stdout.strip() == b"1", found.stderr.decode()[-2000:]


def test_children_are_forked_from_the_same_process(child):
    child.start()
    first, server = child.pid, child.fork_server._process.pid
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: not child.alive)
    assert child.exit_status() == "SIGKILL"
    child.start()
    assert child.pid != first
    assert child.fork_server._process.pid == server
    assert child.fork_server.resident_bytes() > 1 << 20


def test_a_fork_server_that_died_is_replaced_and_its_child_with_it(child):
    child.start()
    orphan = child.pid
    child.fork_server._process.kill()
    with pytest.raises(ChildLostError):
        child.receive(5)
    wait_for(lambda: not runs(orphan))
    assert not child.alive
    assert child.exit_status() == "SIGKILL"
    assert child.start().model == "tiny"
    assert child.alive


def test_a_fork_server_that_hangs_is_replaced_too(child, monkeypatch):
    monkeypatch.setattr("worker.children._STUCK_SECONDS", 0.2)
    child.start()
    hung = child.pid
    os.kill(child.fork_server._process.pid, signal.SIGSTOP)
    child.kill()
    wait_for(lambda: not runs(hung))
    assert child.start().model == "tiny"


def test_a_program_that_fails_ends_its_child_only(redis_url):
    child = ModelProcess(["tests.unit.worker.scripted_child", "raise", redis_url])
    try:
        with pytest.raises(ChildLostError, match="exit code 1"):
            child.start()
        child._arguments[0] = "succeed"
        assert child.start().model == "tiny"
    finally:
        child.stop()


def test_nothing_outlives_a_worker(redis_url, tmp_path):
    code = (
        "import sys, time; from worker.model_process import ModelProcess\n"
        "child = ModelProcess(['tests.unit.worker.scripted_child', 'succeed', sys.argv[1]]); child.start()\n"
        "print(child.pid, child.fork_server._process.pid, flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, redis_url], cwd=CHECKOUT, stdout=subprocess.PIPE)
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    assert all(map(runs, pids))
    worker.kill()
    worker.wait()
    worker.stdout.close()
    wait_for(lambda: not any(map(runs, pids)))
