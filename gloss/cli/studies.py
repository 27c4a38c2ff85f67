"""``gloss bias`` and ``gloss surrogate``: questions about many prompts."""

from __future__ import annotations

from typing import Any, TextIO

import click

from gloss import build, v1
from gloss.build import StudyLike
from gloss.cli.asking import ask, prompt_of, target_of, with_question
from gloss.cli.options import with_fields
from gloss.cli.session import TEXT, Session, connected, standard_input, with_model


class Group(click.ParamType[tuple[str, list[str]]]):
    """``LABEL=WORD,WORD,...``."""

    name = "label=words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[str]]:
        """The label and its words."""
        label, given, words = str(value).partition("=")
        if not (label and given and words):
            self.fail(f"{value!r} is not LABEL=WORD,WORD,...", param, ctx)
        return label, [word.strip() for word in words.split(",")]


@click.command(short_help="Measure what changes when one group's words replace another's.")
@click.argument("templates", type=TEXT, nargs=-1, required=True)
@click.option(
    "--group",
    "groups",
    type=Group(),
    multiple=True,
    required=True,
    help="Words to compare, separated by commas; repeat for each group.",
)
@with_fields(v1.Budget, leaving={"standard_error"})
@with_question
@with_model
@connected
def bias(
    session: Session, templates: tuple[str, ...], *, groups: tuple[tuple[str, list[str]], ...], chat: bool, **asked: Any
) -> None:
    """Measure how the value changes when a word is replaced. TEMPLATES are texts with the slot {}.

    \b
    gloss bias "The {} wrote that" "Then the {} said" --target " he" --against " she" \\
        --group men=king,father,actor --group women=queen,mother,actress
    """
    if chat:
        raise click.UsageError("templates are texts: --chat does not apply")
    if len({label for label, _ in groups}) < len(groups):
        raise click.UsageError("two groups have the same label; write all words of a group behind its label")
    _ask(session, build.bias_probe(templates, dict(groups)), **asked)


class PromptsFile(click.File):
    """A text file, or standard input for ``-``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> TextIO:
        """Open it."""
        if value == "-":
            standard_input(param, ctx)  # refuses one that is closed, or is another text already
        file: TextIO = super().convert(value, param, ctx)  # type: ignore[assignment]  # by its mode
        return file


@click.command(short_help="Find the words that go with a prediction, over many prompts.")
@click.argument("prompts", type=PromptsFile(encoding="utf-8"))
@with_fields(v1.GlobalSurrogate, leaving={"prompts"}, refused={"lasso"})
@with_fields(v1.Budget, leaving={"standard_error"})
@with_question
@with_model
@connected
def surrogate(
    session: Session,
    prompts: TextIO,
    *,
    surrogate: str | None,
    held_out: float | None,
    max_depth: int | None,
    chat: bool,
    ids: bool,
    **asked: Any,
) -> None:
    """Fit a simple model that predicts the value from the words of a prompt.

    PROMPTS is a file with one prompt per line; "-" is standard input.

    \b
    gloss surrogate prompts.txt --target " good" --surrogate decision-tree
    """
    try:
        lines = [line.strip() for line in prompts]
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{prompts.name} is not UTF-8 text: {error.reason}") from error
    read = [prompt_of(line, ids=ids, chat=chat) for line in lines if line]
    method = build.global_surrogate(read, surrogate=surrogate, held_out=held_out, max_depth=max_depth)
    _ask(session, method, ids=ids, **asked)


def _ask(
    session: Session,
    method: StudyLike,
    *,
    target: str | None,
    against: str | None,
    continuation: str | None,
    generation: int | None,
    scale: build.ScaleName | None,
    ids: bool,
    max_evaluations: int | None,
    max_duration: float | None,
    seed: int | None,
    precision: build.PrecisionName | None,
    model: str,
    **answer: Any,
) -> None:
    spec = build.study(
        method,
        model=model,
        target=target_of(
            target=target,
            against=against,
            continuation=continuation,
            generation=generation,
            scale=scale,
            ids=ids,
        ),
        budget=build.budget(max_evaluations=max_evaluations, max_duration=max_duration, seed=seed),
        precision=precision,
    )
    ask(session, spec, **answer)
