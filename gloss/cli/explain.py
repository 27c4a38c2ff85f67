"""``gloss explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from gloss import build, v1
from gloss.build import ScaleName, UnitName
from gloss.cli.asking import ask, prompt_of, target_of, with_question
from gloss.cli.options import method_messages, parameters_of, with_fields
from gloss.cli.session import SPAN, TEXT, Session, connected, with_model
from gloss.values import enum_names

METHODS = method_messages(v1.ExplanationSpec)
"""The methods' messages, by name."""


_WRITTEN = {"text": v1.REMOVAL_KIND_TEXT, "text-and-delete": v1.REMOVAL_KIND_TEXT_AND_DELETE}
"""Kinds of removal that put a given text in a feature's place."""


class Removal(click.ParamType[v1.Removal]):
    """The name of a kind, or ``text=REPLACEMENT`` or ``text-and-delete[=REPLACEMENT]``."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> v1.Removal:
        """The contract's message."""
        kind, given, replacement = str(value).partition("=")
        try:
            if given and kind in _WRITTEN:
                return v1.Removal(kind=_WRITTEN[kind], text=TEXT.convert(replacement, param, ctx))
            built = build.removal(value)
        except ValueError:
            built = None
        if built is None:
            self.fail(f"{value!r} is none of {', '.join(build.REMOVALS)}, text=REPLACEMENT", param, ctx)
        return built


class RowsOption(click.ParamType[UnitName | tuple[int, int]]):
    """The name of a unit, or a span."""

    name = "|".join(get_args(UnitName)) + "|START:END"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> UnitName | tuple[int, int]:
        """The unit's name as the client has it, or the span's ends."""
        units: dict[str, UnitName] = {name: name for name in get_args(UnitName)}
        if value in units:
            return units[value]
        if ":" not in str(value):
            self.fail(f"{value!r} is none of {', '.join(units)}, nor a range of characters such as 4:9", param, ctx)
        return SPAN.convert(value, param, ctx)


def _rows(given: tuple[UnitName | tuple[int, int], ...]) -> UnitName | list[tuple[int, int]] | None:
    """One unit, or spans; None where nothing is given.

    Raises:
        click.UsageError: both, or several units.
    """
    spans = [each for each in given if not isinstance(each, str)]
    units = [each for each in given if isinstance(each, str)]
    if len(units) > 1 or (units and spans):
        raise click.UsageError("--rows is one unit, or one or several ranges of characters")
    return units[0] if units else spans or None


@click.command(short_help="Show which words support a prediction, and which oppose it.")
@click.argument("text", type=TEXT)
@click.option(
    "--method",
    type=click.Choice(list(METHODS)),
    metavar="METHOD",
    default="occlusion",
    show_default=True,
    help=f"One of {', '.join(METHODS)}. In tests with a known deciding word, attention-rollout, value-zeroing and often"
    " input-times-gradient were no better than chance.",
)
@click.option(
    "--unit", type=click.Choice(list(enum_names(v1.FeatureUnit))), help="What gets an attribution. [default: word]"
)
@click.option("--span", "spans", type=SPAN, multiple=True, help="Make a feature of these characters; may be repeated.")
@click.option("--within", type=SPAN, help="Use only units that begin within these characters.")
@click.option(
    "--removal",
    type=Removal(),
    help="mask, delete, similar, similar-slopes (occlusion), mean-embedding, text=REPLACEMENT or"
    " text-and-delete[=REPLACEMENT]. [default: mask if the model has a mask token, otherwise delete]",
)
@click.option(
    "--rows",
    type=RowsOption(),
    multiple=True,
    metavar=RowsOption.name,
    help="Also give the attributions of each token, word or sentence of a continuation or a generation, or of its"
    " characters START:END; may be repeated.",
)
@with_fields(v1.Rows, leaving={"unit", "spans"})
@with_fields(*METHODS.values())
@with_fields(v1.Budget, v1.Quality)
@with_question
@with_model
@connected
def explain(
    session: Session,
    text: str,
    *,
    method: str,
    target: str | None,
    against: str | None,
    continuation: str | None,
    generation: int | None,
    scale: ScaleName | None,
    ids: bool,
    chat: bool,
    unit: UnitName | None,
    spans: tuple[tuple[int, int], ...],
    within: tuple[int, int] | None,
    removal: v1.Removal | None,
    rows: tuple[UnitName | tuple[int, int], ...],
    pairs: bool | None,
    max_evaluations: int | None,
    max_duration: float | None,
    standard_error: float | None,
    seed: int | None,
    faithfulness: bool | None,
    precision: build.PrecisionName | None,
    model: str,
    fresh: bool,
    no_wait: bool,
    dry_run: bool,
    page: Path | None,
    **parameters: Any,
) -> None:
    """Show which words of TEXT support the next token, and which oppose it.

    \b
    gloss explain "The capital of France is" --method lime --target " Paris"
    gloss explain "The capital of France is" --target " Paris" --against " London"
    gloss explain "The capital of France is" --generation 12 --rows word
    """
    if unit and spans:
        raise click.UsageError("--unit and --span exclude each other: spans are the units")
    spec = build.spec(
        prompt_of(text, ids=ids, chat=chat),
        build.method(method, **parameters_of(METHODS[method], parameters)),
        model=model,
        target=target_of(
            target=target,
            against=against,
            continuation=continuation,
            generation=generation,
            scale=scale,
            ids=ids,
        ),
        features=build.features(spans or unit, within=within),
        removal=removal,
        budget=build.budget(
            max_evaluations=max_evaluations, max_duration=max_duration, standard_error=standard_error, seed=seed
        ),
        faithfulness=faithfulness,
        precision=precision,
        rows=build.rows(_rows(rows), pairs=pairs),
    )
    return ask(session, spec, fresh=fresh, no_wait=no_wait, dry_run=dry_run, page=page)
