"""``gloss bias`` and ``gloss surrogate``: explanations over many prompts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from gloss import build, v1
from gloss.build import MethodLike, ScaleName
from gloss.cli.explain import answer, check_choices
from gloss.cli.session import INT32, SCALE, TEXT, Session, connected, with_model
from gloss.cli.waiting import queue

Command = TypeVar("Command", bound=Callable[..., Any])

_SURROGATES = {"ridge": v1.SURROGATE_RIDGE, "tree": v1.SURROGATE_DECISION_TREE}


class Group(click.ParamType[tuple[str, list[str]]]):
    """``LABEL=WORD,WORD,...``."""

    name = "label=words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[str]]:
        """The label and its words."""
        label, given, words = str(value).partition("=")
        if not (label and given and words):
            self.fail(f"{value!r} is not LABEL=WORD,WORD,...", param, ctx)
        return label, [word.strip() for word in words.split(",")]


def with_target(command: Command) -> Command:
    """Give a command the options that say which value is compared, and how long it may take."""
    for option in (
        click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Write a page."),
        click.option("--dry-run", is_flag=True, help="Check it and say what it would cost; queue nothing."),
        click.option("--no-wait", is_flag=True, help="Queue it and say its name."),
        click.option("--fresh", is_flag=True, help="Compute anew, even if the same was asked before."),
        click.option("--max-seconds", type=float, help="The most seconds of work."),
        click.option("--scale", type=SCALE, help="Of the compared value. [default: log-probability]"),
        click.option("--continuation", type=TEXT, help="Ask about all tokens of this continuation."),
        click.option("--against", type=TEXT, help="Ask about the target rather than this."),
        click.option("--target", type=TEXT, help="Ask about this next token. [default: the first prompt's likeliest]"),
    ):
        command = option(command)
    return command


@click.command(short_help="What changes when one group's words take the place of another's.")
@click.argument("templates", type=TEXT, nargs=-1, required=True)
@click.option(
    "--group", "groups", type=Group(), multiple=True, required=True, help="Words to compare; repeat for each group."
)
@with_target
@with_model
@connected
def bias(
    session: Session, templates: tuple[str, ...], *, groups: tuple[tuple[str, list[str]], ...], **asked: Any
) -> None:
    """Does the value change when a word is swapped? TEMPLATES are texts with the slot {}.

    \b
    gloss bias "The {} wrote that" "Then the {} said" --target " he" --against " she" \\
        --group men=king,father,actor --group women=queen,mother,actress
    """
    if len({label for label, _ in groups}) < len(groups):
        raise click.UsageError("two groups have the same label; write all words of a group behind its label")
    _ask(session, templates[0], build.bias_probe(dict(groups), templates[1:]), **asked)


@click.command(short_help="Which words, over many prompts, go with what it says.")
@click.argument("prompts", type=click.File(encoding="utf-8"))
@click.option("--surrogate", type=click.Choice(list(_SURROGATES)), default="ridge", show_default=True)
@click.option("--held-out", type=float, help="Part of the prompts that only tests the fit. [default: 0.2]")
@click.option("--max-depth", type=INT32, help="Of a tree. [default: 3]")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@with_target
@with_model
@connected
def surrogate(
    session: Session,
    prompts: TextIO,
    *,
    surrogate: str,
    held_out: float | None,
    max_depth: int | None,
    seed: int,
    **asked: Any,
) -> None:
    """From which words are present to the model's value, fitted over the lines of PROMPTS ("-" reads standard input).

    \b
    gloss surrogate prompts.txt --target " good" --surrogate tree
    """
    try:
        lines = [line.strip() for line in prompts]
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{prompts.name} is not UTF-8 text: {error.reason}") from error
    first, *others = [line for line in lines if line] or [""]
    method = v1.GlobalSurrogate(
        prompts=others, surrogate=_SURROGATES[surrogate], held_out=held_out, max_depth=max_depth
    )
    _ask(session, first, method, seed=seed, **asked)


def _ask(
    session: Session,
    text: str,
    method: MethodLike,
    *,
    target: str | None,
    against: str | None,
    continuation: str | None,
    scale: ScaleName | None,
    max_seconds: float | None,
    fresh: bool,
    no_wait: bool,
    dry_run: bool,
    page: Path | None,
    model: str,
    seed: int = 0,
) -> None:
    check_choices(target, against, continuation, page, no_wait=no_wait, dry_run=dry_run)
    explanation = queue(
        session,
        text,
        method,
        target=target,
        against=against,
        continuation=continuation,
        scale=scale,
        max_seconds=max_seconds,
        seed=seed,
        model=model,
        fresh=fresh,
        dry_run=dry_run,
    )
    answer(session, explanation, page, no_wait=no_wait)
