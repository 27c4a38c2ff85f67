"""The lock on a state folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.state import FolderTakenError, hold
from tests.fixtures.processes import CHECKOUT


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(FolderTakenError, match=f"process {os.getpid()} already runs"), hold(tmp_path):
        pytest.fail("two owners")


def test_it_can_be_held_again_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path / "new" / "folder"):
            pass


def test_a_child_of_a_dead_owner_still_holds_it(tmp_path: Path) -> None:
    """Until the child is gone too, the next owner waits."""
    owner = (
        "import subprocess, sys; from pathlib import Path; from deploy.state import hold\n"
        f"with hold(Path({str(tmp_path)!r})) as lock:\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, stdout=1, pass_fds=[lock])\n"
        "    print(child.pid, flush=True); import os; os._exit(9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", owner], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=CHECKOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert process.wait(20) == 9
        with pytest.raises(FolderTakenError), hold(tmp_path, patience=0.2):
            pytest.fail("the child was not waited for")
        process.stdin.close()
        with hold(tmp_path):
            pass


def test_a_killed_owner_leaves_nothing_to_clean_up(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("1")
    with hold(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())
