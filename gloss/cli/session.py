"""What every command shares: the connection's options, where output goes, and how errors read."""

from __future__ import annotations

import functools
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar, get_args

import click
import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console, Group, RenderableType

from gloss.build import ScaleName
from gloss.cli import INTERRUPTED, encodings
from gloss.cli.unreachable import unreachable
from gloss.client import Client
from gloss.connection import DEFAULT_ADDRESS
from gloss.errors import ExplanationFailedError, GlossError
from gloss.render.escaping import OBEYED, visible

Command = TypeVar("Command", bound=Callable[..., Any])

# JSON itself escapes those below the space only, and line ends stand between its parts.
_IN_JSON = {code: f"\\u{code:04x}" for code in OBEYED if code > ord(" ")}


@dataclass
class Session:
    """One run of a command."""

    client: Client
    json: bool

    @cached_property
    def out(self) -> Console:
        """For people, on standard output."""
        return Console(highlight=False, markup=False, emoji=False)

    @cached_property
    def err(self) -> Console:
        """Progress and advice, on standard error."""
        return Console(stderr=True, highlight=False, markup=False, emoji=False)

    def show(self, *drawings: RenderableType) -> None:
        """Draw for a person. Lines that must stay whole, such as commands to copy, may be wider than the console."""
        self.out.print(Group(*drawings), crop=False)

    def emit(self, message: Message, *, lines: bool = False) -> None:
        """Print a message as JSON, on one line where several follow each other."""
        emit(as_dict(message), lines=lines)


def say(line: str, *, err: bool = False, **style: Any) -> None:
    """Print a line for a person, on standard output or error, with its control characters shown."""
    click.secho(visible(line), err=err, **style)


def interrupted(*lines: str) -> NoReturn:
    """End after Ctrl-C, as shells expect, with what a person may want to know."""
    say("", err=True)
    for line in lines:
        say(line, err=True)
    sys.exit(INTERRUPTED)


def emit(value: dict[str, Any], *, lines: bool = False) -> None:
    """Print JSON, on one line where several follow each other.

    What a terminal would obey is escaped in it, and all that is not ASCII where the output's encoding lacks a part of
    it. Numbers that JSON lacks are strings, as in the protobuf JSON mapping: "NaN", "Infinity" and "-Infinity".
    """
    write = functools.partial(json.dumps, indent=None if lines else 2, allow_nan=False)
    try:
        text = write(value, ensure_ascii=False)
    except ValueError:
        value = _with_names(value)
        text = write(value, ensure_ascii=False)
    if not encodings.has(text):
        text = write(value)
    click.echo(text.translate(_IN_JSON))


def _with_names(value: Any) -> Any:
    """`value` with names for the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _with_names(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_names(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def as_dict(message: Message) -> dict[str, Any]:
    """The message as the protobuf JSON mapping has it: the contract's field names, and zeros where they are."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


_READ = f"{__name__}.read"
"""In a context's notes: whether a text of the command was read from standard input."""
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


_CONNECTION_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--address", metavar="HOST:PORT", help=f"Address of the server. [GLOSS_ADDRESS; default: {DEFAULT_ADDRESS}]"
    ),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        default=30.0,
        show_default=True,
        help="Time limit of a call.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text."),
    click.option("--key", help="API key. The variable is safer, because other users can see options. [GLOSS_KEY]"),
    click.option("--tls", is_flag=True, help="Encrypt the connection."),
    click.option("--ca", type=_FILE, help="PEM file of the authorities to trust; implies --tls. [GLOSS_CA]"),
    click.option(
        "--certificate",
        type=(_FILE, _FILE),
        metavar="CERTIFICATE KEY",
        help="PEM files of this client, for mutual TLS. [GLOSS_CERTIFICATE, GLOSS_CERTIFICATE_KEY]",
    ),
)


def connected(command: Command) -> Command:
    """Give a command the connection's options and hand it a `Session`; its errors become two lines and an exit code."""

    @functools.wraps(command)
    def run(
        *args: Any,
        address: str | None,
        timeout: float,
        as_json: bool,
        key: str | None,
        tls: bool,
        ca: Path | None,
        certificate: tuple[Path, Path] | None,
        **kwargs: Any,
    ) -> Any:
        try:
            client = Client(address, timeout=timeout, key=key, tls=tls, ca=ca, certificate=certificate)
        except OSError as error:  # a file that a variable names
            raise click.UsageError(f"{error.filename}: {error.strerror}") from error
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        with client, _ctrl_c():
            try:
                return command(Session(client, as_json), *args, **kwargs)
            except ExplanationFailedError as error:
                raise ExplanationFailure(error, client) from error
            except GlossError as error:
                raise Failure(error, client) from error

    for option in reversed(_CONNECTION_OPTIONS):
        run = option(run)
    return run  # type: ignore[return-value]


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Let Ctrl-C raise `KeyboardInterrupt`, where `gloss.__main__` has let it end the process."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def with_model(command: Command) -> Command:
    """Give a command the choice of a model."""
    decorate: Callable[[Command], Command] = click.option(
        "--model", default="", help="Name of the model. [default: the server's default model]"
    )
    return decorate(command)


class Failure(click.ClickException):
    """A failed call, in one or two lines: what happened, and what to do."""

    exit_code = 1

    def __init__(self, error: GlossError, client: Client) -> None:
        super().__init__(error.message)
        self.lines = [line for line in (_what(error, client), _advice(error, client)) if line]

    def show(self, file: Any = None) -> None:
        """Print the lines on standard error."""
        say(f"error: {self.lines[0]}", err=True, fg="red")
        for line in self.lines[1:]:
            say(f"       {line}", err=True)


class ExplanationFailure(Failure):
    """The calls went well, the explanation did not."""

    exit_code = 3


def _nobody_there(error: GlossError) -> bool:
    return error.code is grpc.StatusCode.UNAVAILABLE and not error.reason


def _what(error: GlossError, client: Client) -> str:
    if _nobody_there(error):
        return unreachable(error.message, client)[0]
    message = error.message
    return f"{error.field}: {message}" if error.field and not message.startswith(error.field) else message


def _advice(error: GlossError, client: Client) -> str:
    advice = ""
    if _nobody_there(error):
        advice = unreachable(error.message, client)[1]
    elif error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        advice = f"It took longer than {client.timeout or 0:g} s; allow more by --timeout."
    elif error.code is grpc.StatusCode.UNAUTHENTICATED:
        advice = "Present a key by GLOSS_KEY or --key."
    elif error.reason == "NO_WORKER":
        advice = "Start one with `make up` (or `python -m worker`)."
    elif error.reason == "EXPLANATION_NOT_FOUND":
        advice = "`gloss jobs list` shows those that are there."
    elif error.retry_after:
        advice = f"Try again in {error.retry_after:g} s."
    return advice


def standard_input(param: click.Parameter | None, ctx: click.Context | None) -> IO[bytes]:
    """Standard input, for the one text of a command that it can be.

    Raises:
        click.BadParameter: another text of the command was read from it, or the caller has closed it.
    """
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", ctx, param)
    if ctx is not None:
        if ctx.meta.get(_READ):
            raise click.BadParameter("standard input can be one text only, and is another already", ctx, param)
        ctx.meta[_READ] = True
    return sys.stdin.buffer


class Text(click.ParamType[str]):
    """A text from the command line, or from standard input for ``-``, without the last line's end."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read and check it."""
        try:
            text = standard_input(param, ctx).read().decode().removesuffix("\n") if value == "-" else str(value)
            text.encode()  # an argument in another encoding arrives with lone surrogates
        except UnicodeError:
            self.fail("the text is not valid UTF-8", param, ctx)
        return text


class Int32(click.ParamType[int]):
    """What the contract's int32 can carry; whether a value makes sense is the server's to say."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """A number of at most 32 bits, sign included."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number", param, ctx)
        if not -(2**31) <= number < 2**31:
            self.fail(f"{value} does not fit 32 bits", param, ctx)
        return number


class Span(click.ParamType[tuple[int, int]]):
    """``A:B``, the characters from A up to but without B."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Two numbers with a colon between them."""
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(value))
        if found is None:
            self.fail(f"{value!r} is no range of characters such as 4:9", param, ctx)
        return int(found[1]), int(found[2])


class Scale(click.ParamType[ScaleName]):
    """On which scale a value is explained; ``log`` is short for the first."""

    name = "|".join(get_args(ScaleName))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> ScaleName:
        """The scale's name as the client has it."""
        names: dict[str, ScaleName] = {name: name for name in get_args(ScaleName)}
        found = {**names, "log": "log-probability"}
        if value not in found:
            self.fail(f"{value!r} is none of {', '.join(names)}", param, ctx)
        return found[value]


TEXT = Text()
INT32 = Int32()
SPAN = Span()
SCALE = Scale()
