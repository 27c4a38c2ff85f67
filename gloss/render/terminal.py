"""Draws explanations on a rich console."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.style import Style
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from gloss import v1
from gloss.render import features, figures, surrogates, words
from gloss.render.escaping import visible
from gloss.render.findings import Finding, findings
from gloss.render.hierarchy import Branch, branches, rest_line
from gloss.render.paint import AGAINST, FOR, Shaded, add_bars, bar, hexadecimal, plain, shade
from gloss.render.rows import RowTable, rows
from gloss.render.surrogates import Fitted

_ROWS, _LEADING = 40, 3
"""The most rows of a target that are drawn, and the most features of each."""
_LONG = 24
"""The most characters of either that are shown."""
_MARKS = {True: ("✔", "green"), None: ("≈", "yellow"), False: ("✘", "red")}
_TRUST_MARKS = {
    v1.TRUST_VERDICT_TRUSTED: ("✔", "bold green"),
    v1.TRUST_VERDICT_CAUTION: ("▲", "bold yellow"),
    v1.TRUST_VERDICT_NOT_TRUSTED: ("✘", "bold red"),
}
_STATES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan", "queued": "dim"}


def jobs(found: Iterable[v1.Explanation], now: float | None = None) -> Table:
    """Explanations as a table; `now`, in seconds since the epoch, is for their ages."""
    now = time.time() if now is None else now
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", expand=True)
    rows = [
        (plain(one.name.removeprefix("explanations/")), figures.age(now - one.create_time.ToNanoseconds() / 1e9), one)
        for one in found
    ]
    # Ids are never shortened: they are there to be copied. Of methods and prompts, the beginning says much.
    table.add_column("id", no_wrap=True, min_width=max((len(name) for name, _, _ in rows), default=0))
    table.add_column("state", no_wrap=True, min_width=max(map(len, _STATES)))
    table.add_column("age", no_wrap=True, min_width=max((len(age) for _, age, _ in rows), default=0))
    table.add_column("method", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", ratio=3)
    for name, age, one in rows:
        state = words.state(one)
        table.add_row(
            name,
            Text(state, _STATES.get(state, "")),
            age,
            plain(words.method(one)),
            plain(one.prompt_preview or "(token ids)"),
        )
    return table


def coloured_words(result: v1.ExplanationResult) -> Shaded:
    """The explained text, each feature in the colour of its attribution relative to the largest."""
    maximum, digits_shown = features.largest(result), features.digits(result)
    return Shaded(
        (
            segment,
            part.attribution / maximum if part else None,
            figures.signed(part.attribution, digits_shown) if part else "",
        )
        for segment, part in features.segments(result)
    )


def attributions(result: v1.ExplanationResult, *, top: int = 12, width: int = 32) -> Group:
    """The features with the largest attributions, as diverging bars with value and standard error."""
    maximum, digits_shown = features.largest(result), features.digits(result)
    ranking, sampled = features.ranked(result), features.sampled(result)
    # Half of the width for each sign, or all of it if there is only one.
    low = -maximum if any(part.attribution < 0 for part in ranking) else 0.0
    high = maximum if any(part.attribution > 0 for part in ranking) or not low else 0.0
    table = Table.grid(padding=(0, 1))
    table.add_column(max_width=40, no_wrap=True, overflow="ellipsis")
    add_bars(table, width=width)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    for part in ranking[:top]:
        drawn = bar(
            high - low,
            min(part.attribution, 0.0) - low,
            max(part.attribution, 0.0) - low,
            color=hexadecimal((FOR if part.attribution > 0 else AGAINST)[1]),
        )
        error = figures.uncertainty(part, digits_shown) if sampled else ""
        table.add_row(plain(part.text), drawn, figures.signed(part.attribution, digits_shown), error)
    left = len(ranking) - top
    more = [Text(f"and {left} smaller", "dim")] if left > 0 else []
    return Group(table, *more)


def tree(fitted: Fitted) -> Tree:
    """A decision tree, as questions about which features are present."""

    def grow(branch: Tree, index: int, answer: str) -> None:
        node = fitted.nodes[index]
        label = Text.assemble(
            (answer, "dim"), (figures.number(node.value, fitted.digits_shown), "bold"), (f" · {node.samples}", "dim")
        )
        if node.HasField("feature"):
            label.append_text(Text.assemble("  ", (visible(fitted.names[node.feature]), "cyan"), "?"))
        grown = branch.add(label)
        if node.HasField("feature"):
            grow(grown, node.present, "present: ")
            grow(grown, node.absent, fitted.absent)

    root = Tree(Text("predicted value · samples", "dim"), hide_root=False, guide_style="dim")
    grow(root, 0, "")
    return root


def parts(root: Branch) -> Tree:
    """The parts of a text that were looked into."""

    def label(branch: Branch) -> Text:
        tone = FOR if branch.value >= 0 else AGAINST
        line = Text.assemble((branch.figures, Style(color=hexadecimal(tone[1]), bold=True)), " ")
        line.append_text(Text.assemble((f"{branch.level} ", "dim"), branch.text))
        return line.append_text(Text(f"  {branch.note}" if branch.note else "", "yellow"))

    def grow(drawn: Tree, branch: Branch) -> Tree:
        for child in branch.children:
            grow(drawn.add(label(child)), child)
        if branch.smaller:
            drawn.add(Text(f"and {branch.smaller} smaller", "dim"))
        return drawn

    return grow(Tree(label(root), guide_style="dim"), root)


def verdict(result: v1.ExplanationResult | v1.StudyResult, fitted: Fitted | None) -> Iterator[RenderableType]:
    """Whether to rely on it: the trust verdict, and how well a surrogate fits."""
    if result.HasField("trust"):
        mark, style = _TRUST_MARKS.get(result.trust.verdict, ("·", "dim"))
        sentence, reasons = words.trust(result.trust)
        yield plain(f"{mark} {sentence}", style)
        yield from (Padding(plain(reason), (0, 0, 0, 2)) for reason in reasons)
    if fitted is not None:
        yield Padding(plain(fitted.sentence), (0, 0, 0, 2))


def faithfulness(result: v1.ExplanationResult, units: str) -> Iterator[RenderableType]:
    """How well the attributions predict the model, each metric compared with random rankings."""
    if result.HasField("faithfulness"):
        rankings = result.faithfulness.random_rankings
        yield Text(f"  Faithful? Compared with {rankings} random rankings (✔ better, ≈ similar, ✘ worse):", "dim")
        for line in words.faithfulness(result.faithfulness, units, words.scale(result.target)):
            mark, style = _MARKS[line.better]
            yield Text.assemble("  ", (mark, style), f" {line.name}: ", (line.sentence, "dim"))


def explanation(found: v1.Explanation) -> Group:
    """A finished or partial explanation: the question, the coloured text, the table, and whether to trust it."""
    if words.is_study(found):
        return Group(_heading(found), *_study(found))
    result = found.result if found.HasField("result") else found.partial_result
    if not result.attributions:
        return Group(_heading(found), Text(f"{words.state(found)}: nothing is known yet", "dim"))
    fitted = surrogates.around(result)
    return Group(
        _heading(found),
        plain(words.value_line(result, found.spec)),
        Padding(coloured_words(result), (1, 2)),
        legend(shares=features.tells_shares(result)),
        *([Text(line, "dim")] if (line := words.unit_line(result, found.spec)) else []),
        Padding(attributions(result), (1, 2)),
        *([Padding(row_table(drawn), (0, 2, 1, 2))] if (drawn := rows(result, found.spec, top=_ROWS)) else []),
        *_details(result, fitted),
        *verdict(result, fitted),
        *faithfulness(result, words.unit(found.spec, 2)),
        Padding(plain(words.cost(result), "dim"), (1, 0, 0, 0)),
    )


def _study(found: v1.Explanation) -> Iterator[RenderableType]:
    result = found.study_result if found.HasField("study_result") else found.partial_study_result
    if not result.HasField("target"):
        yield Text(f"{words.state(found)}: nothing is known yet", "dim")
        return
    fitted = surrogates.over_many(result.global_surrogate) if result.HasField("global_surrogate") else None
    yield Padding(plain(words.study_line(result)), (0, 0, 1, 0))
    yield from _details(result, fitted)
    yield from verdict(result, fitted)
    yield Padding(plain(words.cost(result), "dim"), (1, 0, 0, 0))


def _heading(found: v1.Explanation) -> Text:
    return Text.assemble(
        (words.method(found), "bold"), (f" · {words.model(found.model)} · {visible(found.name)}", "dim")
    )


def _details(result: v1.ExplanationResult | v1.StudyResult, fitted: Fitted | None) -> Iterator[RenderableType]:
    """Findings other than attributions."""
    yield from (Padding(table(finding), (0, 2, 1, 2)) for finding in findings(result))
    if isinstance(result, v1.ExplanationResult) and (root := branches(result)) is not None:
        yield Padding(parts(root), (0, 2, 1, 2))
        if line := rest_line(result):
            yield Padding(plain(line), (0, 2, 1, 2))
    if fitted is not None and fitted.nodes:
        yield Padding(tree(fitted), (0, 2, 1, 2))


def table(finding: Finding) -> Table:
    """Findings other than attributions."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=finding.title, title_justify="left")
    for place, name in enumerate(finding.header):
        drawn.add_column(name, justify="right" if place else "left", no_wrap=True, overflow="ellipsis")
    for row in finding.rows:
        drawn.add_row(*map(plain, row))
    if finding.more:
        drawn.add_row(Text(f"and {finding.more} smaller", "dim"))
    return drawn


def row_table(drawn: RowTable) -> Group:
    """The rows of a target, each with the features that matter most to it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title=drawn.title, title_justify="left")
    text, *numbers = drawn.header
    table.add_column(text, no_wrap=True, overflow="ellipsis", max_width=_LONG)
    for name in numbers:
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("most by", overflow="fold")
    top = _LEADING - 1 if any(map(_error_of, drawn.lines[0].parts)) else _LEADING
    for line in drawn.lines:
        leading = [_leading(part, drawn) for part in line.leading(top)]
        table.add_row(plain(line.text), line.value, line.effect, Text(" · ").join(leading))
    return Group(table, *([Text(f"and {drawn.more} more", "dim")] if drawn.more else []))


def _leading(part: v1.FeatureAttribution, drawn: RowTable) -> Text:
    """A feature of a row with its attribution, coloured by its share of the largest."""
    text = Text(visible(part.text), shade(FOR if part.attribution >= 0 else AGAINST, drawn.share(part)))
    text.truncate(_LONG, overflow="ellipsis")
    error = figures.uncertainty(part, drawn.digits_shown) if _error_of(part) else ""
    return Text.assemble(text, " ", figures.signed(part.attribution, drawn.digits_shown), (f" {error}".rstrip(), "dim"))


def _error_of(part: v1.FeatureAttribution) -> bool:
    return not part.HasField("standard_error") or part.standard_error > 0


def legend(*, shares: bool = False) -> Shaded:
    """The meaning of the colours."""
    if shares:
        return Shaded([("  ", None, ""), (" where the prediction comes from ", 1.0, "+")])
    return Shaded([("  ", None, ""), (" supports it ", 1.0, "+"), ("  ", None, ""), (" opposes it ", -1.0, "−")])
