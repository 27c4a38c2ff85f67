"""The stack with a guided walk through it: `make demo`."""

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


def walk(stack: Stack) -> None:
    """Run the client's own walk against the stack, in this terminal.

    Raises:
        StartError: the walk failed, or one of the stack's processes ended under it.
    """
    stack.console.print()
    command = [sys.executable, "-m", "gloss", "walk"]
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
        raise StartError(f"the walk failed with exit code {code}; what it printed stands above", code)
    stack.announce()


def invite(stack: Stack) -> None:
    """Print what a second terminal needs for the commands of the walk."""
    activate = Path(sys.executable).parent / "activate"
    lines = [f". {shlex.quote(os.path.relpath(activate))}"] if activate.exists() else []
    if stack.address != DEFAULT_ADDRESS:
        lines.append(f"export GLOSS_ADDRESS={stack.address}")
    if lines:
        stack.console.print("\nIn a second terminal, first", style="bold")
    for line in lines:
        stack.console.print(f"  {line}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, walk through it, and serve until Ctrl-C."""
    options = parser("deploy.demo", "Run the stack, walk through it, and serve until Ctrl-C.")
    options.add_argument("--once", action="store_true", help="stop after the walk")
    chosen = options.parse_args(arguments)

    def once_ready(stack: Stack) -> None:
        walk(stack)
        if not chosen.once:
            invite(stack)

    return run(chosen.state.absolute(), once_ready, once=chosen.once)


if __name__ == "__main__":
    sys.exit(main())
