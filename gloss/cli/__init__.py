"""The command line: ``gloss next``, ``gloss explain``, ...

Exit codes: 0 done; 1 the server could not be reached or refused; 2 the command makes no sense; 3 the explanation failed
or was cancelled; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module, metadata
from typing import Any

import click

from gloss.cli import encodings

# Read when gRPC is imported: errors are reported in our own words, not by its log.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

COMMANDS = {
    "next": "gloss.cli.infer:next_",
    "attention": "gloss.cli.infer:attention",
    "score": "gloss.cli.infer:score",
    "generate": "gloss.cli.infer:generate",
    "tokenize": "gloss.cli.infer:tokenize",
    "models": "gloss.cli.infer:models",
    "explain": "gloss.cli.explain:explain",
    "cite": "gloss.cli.cite:cite",
    "bias": "gloss.cli.studies:bias",
    "surrogate": "gloss.cli.studies:surrogate",
    "jobs": "gloss.cli.jobs:jobs",
    "tour": "gloss.cli.tour:tour",
}
"""Where each command lives; only the one that is called is imported."""

ALIASES = {"attend": "attention", "walk": "tour"}
"""Earlier names, which are not listed."""

INTERRUPTED = 130
"""Exit code, as shells have it for SIGINT."""


class LazyGroup(click.Group):
    """Imports a command when it is asked for."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, whatever the encoding of its output.

        Output that cannot be written, as on a full disk, is an error of one line. click knows what to do where nobody
        reads it, as of ``gloss next TEXT | head -1``.
        """
        encodings.tolerate()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{error.strerror or error}", err=True)
            encodings.forget()
            sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: from the quickest question to the longest tour."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C ends it as shells expect, where it does not know better itself."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(INTERRUPTED)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        try:
            click.echo(f"gloss {metadata.version('gloss')}")
        except metadata.PackageNotFoundError:
            click.echo("gloss, from a checkout that is not installed")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Ask a served language model what it expects next, and why.

    Start with `gloss tour`, a guided tour of what a running server can do. A TEXT of "-" is read from standard input.
    """
