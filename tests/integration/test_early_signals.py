"""SIGTERM and Ctrl-C while a process imports its modules, which is most of the time that it takes to start."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.fixtures.processes import CHECKOUT, environment

# Runs a program as `python -m` does. It gets a signal when it first imports a module, there or in a `__del__`, where
# Python drops what a handler raises.
RUN = """
import os, runpy, sys, time

program, number, where, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), number)

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(30)

if kind == "slow end":  # as where a thread reads a model's weights
    sys.slow = Slow()

class At:
    def find_spec(self, name, *_):
        if name == where:
            sys.meta_path.remove(self)
            if kind == "dropped":
                Dropping()
            else:
                os.kill(os.getpid(), number)

sys.meta_path.insert(0, At())
sys.argv = [program, *sys.argv[5:]]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def run(program, number, where, kind, *arguments, **env):
    """How a program ends that gets a signal while it imports the module `where`."""
    command = [sys.executable, "-c", RUN, program, str(int(number)), where, kind, *arguments]
    return subprocess.run(
        command, cwd=CHECKOUT, env=environment(**env), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("kind", ["raised", "slow end"])
@pytest.mark.parametrize(("program", "where"), [("server", "server.settings"), ("worker", "rq")])
def test_a_signal_ends_a_start_as_later(program, where, kind):
    ended = run(program, signal.SIGTERM, where, kind)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.processes
@pytest.mark.parametrize(("program", "where"), [("server", "server.app"), ("worker", "rq")])
def test_a_signal_that_python_drops_ends_a_start_too(program, where, tiny_llama, redis_url):
    ended = run(program, signal.SIGTERM, where, "dropped", GLOSS_MODEL=str(tiny_llama), GLOSS_REDIS_URL=redis_url)
    assert "Exception ignored in" in ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize("where", ["click", "gloss.cli.infer", "grpc"])
def test_ctrl_c_ends_a_command_that_has_not_begun_without_a_traceback(where):
    ended = run("gloss", signal.SIGINT, where, "raised", "next", "hello")
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "", "")


def test_ctrl_c_stays_ignored_where_the_caller_wants_it():
    code = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    program = [sys.executable, "-c", RUN, "gloss", str(int(signal.SIGINT)), "click", "raised", "--version"]
    command = [sys.executable, "-c", code, *program]
    ended = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0
    assert ended.stdout.startswith("gloss")
