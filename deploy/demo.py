"""The stack with a guided tour of it: `make demo`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.process import StartError
from deploy.stack import CHECKOUT, Stack, parser, run
from gloss.connection import DEFAULT_ADDRESS


def tour(stack: Stack) -> None:
    """Run the client's own tour of the stack, in this terminal.

    Raises:
        StartError: the tour failed, or one of the stack's processes ended under it.
    """
    stack.console.print()
    command = [sys.executable, "-m", "gloss", "tour"]
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    client = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path, "GLOSS_ADDRESS": stack.address})  # noqa: S603
    try:
        while (code := client.poll()) is None:
            stack.check()
            time.sleep(0.05)
    finally:
        client.kill()
        client.wait()
    if code != 0:
        raise StartError(f"the tour failed with exit code {code}; what it printed stands above", code)
    stack.announce()


def invite(stack: Stack) -> None:
    """Print what a second terminal needs for the commands of the tour."""
    activate = Path(sys.executable).parent / "activate"
    lines = [f". {shlex.quote(os.path.relpath(activate))}"] if activate.exists() else []
    if stack.address != DEFAULT_ADDRESS:
        lines.append(f"export GLOSS_ADDRESS={stack.address}")
    if lines:
        stack.console.print("\nIn a second terminal, first", style="bold")
    for line in lines:
        stack.console.print(f"  {line}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, give a tour of it, and serve until Ctrl-C."""
    options = parser("deploy.demo", "Run the stack, give a tour of it, and serve until Ctrl-C.")
    options.add_argument("--once", action="store_true", help="stop after the tour")
    chosen = options.parse_args(arguments)

    def once_ready(stack: Stack) -> None:
        tour(stack)
        if chosen.once:
            said = "The tour has ended, and all of this stops. `make up` serves until Ctrl-C."
            stack.console.print(f"\n{said}", style="bold")
        else:
            invite(stack)

    return run(chosen.state.absolute(), once_ready, once=chosen.once)


if __name__ == "__main__":
    sys.exit(main())
