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
from deploy.settings import Settings
from deploy.stack import CHECKOUT, Stack, parser, run

TRY = (
    'gloss next "The capital of France is"',
    'gloss attend "The war began in"',
    'gloss explain "The film was a great" --method lime --html why.html',
    "gloss jobs list",
    "gloss --help",
)


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


def suggest(stack: Stack) -> None:
    """Print commands for a second terminal."""
    address = "" if stack.address == default_address() else f"GLOSS_ADDRESS={stack.address} "
    folder = os.path.relpath(Path(sys.executable).parent)
    stack.console.print("\n[bold]Try, in a second terminal:[/]")
    for command in TRY:
        stack.console.print(f"  {address}{shlex.quote(folder)}/{command}", markup=False, soft_wrap=True)


def default_address() -> str:
    """Where the client looks for a server that it was told nothing about."""
    return f"{Settings.model_fields['host'].default}:{Settings.model_fields['port'].default}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, walk through it, and serve until Ctrl-C."""
    options = parser("deploy.demo", "Run the stack, walk through it, and serve until Ctrl-C.")
    options.add_argument("--once", action="store_true", help="stop after the walk")
    chosen = options.parse_args(arguments)

    def once_ready(stack: Stack) -> None:
        walk(stack)
        if not chosen.once:
            suggest(stack)

    return run(chosen.state.absolute(), once_ready, once=chosen.once)


if __name__ == "__main__":
    sys.exit(main())
