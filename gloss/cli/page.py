"""``--html FILE``: a page beside what the terminal shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gloss.cli.session import say

Command = TypeVar("Command", bound=Callable[..., Any])


class PageFile(click.Path):
    """A file to write. Whether that can be done is checked before anything is computed for it."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Its path."""
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]  # by path_type
        if not path.parent.is_dir():
            self.fail(f"there is no folder {str(path.parent)!r}", param, ctx)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"the folder {str(path.parent)!r} is not writable", param, ctx)
        return path


def with_page(help_text: str = "Write the result to FILE as a web page.") -> Callable[[Command], Command]:
    """Give a command the option ``--html``, which arrives as `page`."""
    return click.option("--html", "page", type=PageFile(), metavar="FILE", help=help_text)


def write(page: Path, text: str) -> None:
    """Write the page and say so.

    Raises:
        click.FileError: the file could be written when the command began, and cannot be any more.
    """
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.FileError(str(page), error.strerror) from error
    say(f"wrote {page}", err=True)
