"""``gloss explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from gloss import build, v1
from gloss.build import EstimatorName, MethodLike, PrecisionName, ScaleName, UnitName
from gloss.cli.session import INT32, SCALE, SPAN, TEXT, Session, connected, say, with_model
from gloss.cli.waiting import follow, queue, succeeded
from gloss.render import html, terminal, words

METHODS = [name.replace("_", "-") for name in build.METHOD_FIELDS if name not in ("global_surrogate", "bias_probe")]
"""Those that ask about one prompt; the others have commands of their own."""

_SURROGATES = {"ridge": v1.SURROGATE_RIDGE, "lasso": v1.SURROGATE_LASSO, "tree": v1.SURROGATE_DECISION_TREE}


class Removal(click.ParamType[v1.Removal]):
    """``mask``, ``delete``, ``mean-embedding`` or ``text=REPLACEMENT``."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> v1.Removal:
        """The contract's message."""
        kind, given, replacement = str(value).partition("=")
        try:
            if kind == "text" and given:
                return v1.Removal(kind=v1.REMOVAL_KIND_TEXT, text=TEXT.convert(replacement, param, ctx))
            built = build.removal(value)
        except ValueError:
            built = None
        if built is None:
            self.fail(f"{value!r} is none of mask, delete, mean-embedding, text=REPLACEMENT", param, ctx)
        return built


@click.command(short_help="Which words speak for what it says, and which against.")
@click.argument("text", type=TEXT)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    metavar="METHOD",
    default="occlusion",
    show_default=True,
    help=f"One of {', '.join(METHODS)}.",
)
@click.option("--target", type=TEXT, help="Explain this next token. [default: the most likely one]")
@click.option("--against", type=TEXT, help="Why the target rather than this?")
@click.option("--continuation", type=TEXT, help="Explain all tokens of this continuation.")
@click.option("--scale", type=SCALE, help="Of the explained value. [default: log-probability]")
@click.option("--unit", type=click.Choice(["token", "word", "sentence"]), help="What gets a value. [default: word]")
@click.option("--span", "spans", type=SPAN, multiple=True, help="Give a value to these characters; repeat for several.")
@click.option("--within", type=SPAN, help="Only units that begin within these characters.")
@click.option(
    "--removal",
    type=Removal(),
    help="mask, delete, mean-embedding or text=REPLACEMENT. [default: mask where the model can, else delete]",
)
@click.option("--window", type=INT32, help="Occlusion: features removed together. [default: 1]")
@click.option("--stride", type=INT32, help="Occlusion: features between windows. [default: 1]")
@click.option("--surrogate", type=click.Choice(list(_SURROGATES)), help="LIME: what is fitted. [default: ridge]")
@click.option("--steps", type=INT32, help="Integrated gradients: points of the integral. [default: 50]")
@click.option("--max-evaluations", type=INT32, help="The most model evaluations.")
@click.option("--max-seconds", type=float, help="The most seconds of work.")
@click.option("--standard-error", type=float, help="Stop sampling once every standard error is below this.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), default=0, show_default=True)
@click.option("--no-faithfulness", is_flag=True, help="Do not measure how well the values predict the model.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "auto"]),
    help="auto: bfloat16 where it is faster and its measured error is small. [default: float32]",
)
@click.option(
    "--estimator",
    type=click.Choice(["control-variates", "textbook"]),
    help="LIME's ridge and KernelSHAP: textbook is what other packages compute. [default: control-variates]",
)
@click.option("--fresh", is_flag=True, help="Compute anew, even if the same was asked before.")
@click.option("--no-wait", is_flag=True, help="Queue it and say its name.")
@click.option("--dry-run", is_flag=True, help="Check it and say what it would cost; queue nothing.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False, writable=True), help="Write a page.")
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
    scale: ScaleName | None,
    unit: UnitName | None,
    spans: tuple[tuple[int, int], ...],
    within: tuple[int, int] | None,
    removal: v1.Removal | None,
    window: int | None,
    stride: int | None,
    surrogate: str | None,
    steps: int | None,
    max_evaluations: int | None,
    max_seconds: float | None,
    standard_error: float | None,
    seed: int,
    no_faithfulness: bool,
    precision: PrecisionName | None,
    estimator: EstimatorName | None,
    fresh: bool,
    no_wait: bool,
    dry_run: bool,
    page: Path | None,
    model: str,
) -> None:
    """Why does it say that? Which words of TEXT speak for the next token, and which against it.

    \b
    gloss explain "The capital of France is" --method lime --target " Paris"
    gloss explain "The capital of France is" --target " Paris" --against " London"
    """
    if unit and spans:
        raise click.UsageError("--unit and --span exclude each other: spans are the units")
    check_choices(target, against, continuation, page, no_wait=no_wait, dry_run=dry_run)
    explanation = queue(
        session,
        text,
        _method(method, window, stride, surrogate, steps),
        target=target,
        against=against,
        continuation=continuation,
        scale=scale,
        features=spans or unit,
        within=within,
        removal=removal,
        max_evaluations=max_evaluations,
        max_seconds=max_seconds,
        standard_error=standard_error,
        seed=seed,
        faithfulness=not no_faithfulness,
        precision=precision,
        estimator=estimator,
        model=model,
        fresh=fresh,
        dry_run=dry_run,
    )
    return answer(session, explanation, page, no_wait=no_wait)


def check_choices(
    target: str | None,
    against: str | None,
    continuation: str | None,
    page: Path | None,
    *,
    no_wait: bool,
    dry_run: bool,
) -> None:
    """Refuse options of an explanation that contradict each other."""
    if continuation is not None and (target is not None or against is not None):
        raise click.UsageError("--continuation stands alone; a contrast is --target A --against B")
    if against is not None and target is None:
        raise click.UsageError("--against needs --target: why the one rather than the other?")
    if dry_run and (page or no_wait):
        raise click.UsageError("--dry-run computes nothing: leave out --html and --no-wait")
    if no_wait and page:
        raise click.UsageError("--html needs the result; wait for it, or use `gloss jobs get NAME --html FILE` later")


def answer(session: Session, explanation: v1.Explanation, page: Path | None, *, no_wait: bool) -> None:
    """Say the name of an explanation that was queued, or wait for it and show it; of a dry run, say the cost."""
    if not explanation.name:
        return session.emit(explanation) if session.json else say(words.cost_ahead(explanation.progress))
    if no_wait:
        return session.emit(explanation) if session.json else say(explanation.name)
    return present(session, follow(session, explanation), page)


def present(session: Session, explanation: v1.Explanation, page: Path | None) -> None:
    """Show an explanation as it is, and raise the error that it ended with."""
    if session.json:
        session.emit(explanation)
    elif explanation.HasField("result") or explanation.HasField("partial_result"):
        session.show(terminal.explanation(explanation))
    write_page(page, explanation)
    succeeded(explanation)


def write_page(page: Path | None, explanation: v1.Explanation) -> None:
    """Write the HTML page, where one is wanted."""
    if page:
        page.write_text(html.page(explanation), encoding="utf-8")
        say(f"wrote {page}", err=True)


def _method(name: str, window: int | None, stride: int | None, surrogate: str | None, steps: int | None) -> MethodLike:
    if (window is not None or stride is not None) and name != "occlusion":
        raise click.UsageError("--window and --stride belong to --method occlusion")
    if surrogate is not None and name != "lime":
        raise click.UsageError("--surrogate belongs to --method lime")
    if steps is not None and name != "integrated-gradients":
        raise click.UsageError("--steps belongs to --method integrated-gradients")
    if name == "integrated-gradients":
        return v1.IntegratedGradients(steps=steps)
    if name == "occlusion":
        return v1.Occlusion(window=window, stride=stride)
    if name == "lime":
        return v1.Lime(surrogate=_SURROGATES[surrogate] if surrogate else v1.SURROGATE_UNSPECIFIED)
    return cast(MethodLike, name)
