"""An explanation as a self-contained page: no scripts, no external resources, light and dark.

Everything from a prompt, a model or a server is escaped; in addition, the page's policy forbids scripts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from gloss import v1
from gloss.render import features, figures, surrogates, words
from gloss.render.escaping import visible
from gloss.render.findings import Finding, findings
from gloss.render.hierarchy import Branch, branches, rest_line
from gloss.render.rows import RowTable, rows
from gloss.render.surrogates import Fitted

_VERDICTS = {
    v1.TRUST_VERDICT_TRUSTED: "trusted",
    v1.TRUST_VERDICT_CAUTION: "caution",
    v1.TRUST_VERDICT_NOT_TRUSTED: "refused",
}
_SIGNS = '<span class="for">supports it</span><span class="against">opposes it</span>'
_SHARES = '<span class="for">where the prediction comes from</span>'
_NUMBER = ' class="number"'
_FAINT = 0.06
"""Words below this part of the largest attribution have their value only in the table."""
_ROWS, _COLUMNS = 200, 12
"""The most rows of a target, and the most features of each, that are drawn."""
_LONG = 30
_NARROW = 3.0
"""A whisker shorter than this, in a drawing 200 wide, has no caps."""
_BETTER = {
    True: ("better", "better than random"),
    None: ("alike", "like random"),
    False: ("worse", "worse than random"),
}


def page(explanation: v1.Explanation) -> str:
    """The page of an explanation, finished or partial."""
    question, method = words.question(explanation), words.method(explanation)
    if words.is_study(explanation):
        study = explanation.study_result if explanation.HasField("study_result") else explanation.partial_study_result
        title, heading, body, cost = explanation.prompt_preview, method, _study(study), words.cost(study)
    else:
        result = explanation.result if explanation.HasField("result") else explanation.partial_result
        heading = f"{method}: why {result.target.description}?"
        title, body, cost = result.text, _explanation(result, explanation.spec), words.cost(result)
    origin = f"{words.model(explanation.model)} · {explanation.name} · {words.state(explanation)}"
    return filled(f"{method}: {title[:60]}", heading, origin=origin, body=body, cost=cost, asked=question)


def filled(title: str, heading: str, *, origin: str, body: Iterable[str], cost: str, asked: Message) -> str:
    """A page; everything but its `body` is plain text."""
    template = Template((files("gloss.render") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=safe(title),
        heading=safe(heading),
        origin=safe(origin).replace("/", "/<wbr>"),
        body="".join(body),
        cost=safe(cost),
        spec="\n".join(safe(line) for line in MessageToString(asked, as_utf8=True).split("\n")),
    )


def _explanation(result: v1.ExplanationResult, spec: v1.ExplanationSpec) -> Iterator[str]:
    unit = words.unit(spec)
    yield f'<p>{safe(words.value_line(result, spec))}</p><div class="text" dir="auto">'
    yield from _text(result)
    key = _SHARES if features.tells_shares(result) else _SIGNS
    yield f'</div><p class="soft key">{key}Colours are relative to the largest attribution;'
    yield f" a {safe(unit)} without a number has a small value: see the table.</p>"
    yield from _verdict(result)
    yield f"<h2>Attributions</h2>{_unit(words.unit_line(result, spec))}"
    yield from _table(result, unit)
    yield from _rows(result, spec)
    yield from _details(result, surrogates.around(result))
    yield from _faithfulness(result, words.unit(spec, 2))


def _study(result: v1.StudyResult) -> Iterator[str]:
    fitted = surrogates.over_many(result.global_surrogate) if result.HasField("global_surrogate") else None
    yield f"<p>{safe(words.study_line(result))}</p>"
    yield from _verdict(result)
    yield from _details(result, fitted)


def _details(result: v1.ExplanationResult | v1.StudyResult, fitted: Fitted | None) -> Iterator[str]:
    """Findings other than attributions."""
    for finding in findings(result, top=50):
        yield from _finding(finding)
    if isinstance(result, v1.ExplanationResult) and (root := branches(result)) is not None:
        yield f'<h2>Parts of the text</h2><ul class="tree">{_part(root)}</ul>'
        yield f'<p class="soft">{safe(line)}</p>' if (line := rest_line(result)) else ""
    if fitted is not None:
        yield f"<h2>Surrogate</h2><p>{safe(fitted.sentence)}</p>"
        if fitted.nodes:
            yield f'<ul class="tree">{_branch(fitted, 0, "")}</ul>'


def _unit(line: str) -> str:
    return f'<p class="soft">{safe(line)}</p>' if line else ""


def safe(text: str) -> str:
    """Text for a page: markup escaped, control characters made visible."""
    return escape(visible(text))


def _text(result: v1.ExplanationResult) -> Iterator[str]:
    maximum = features.largest(result)
    for segment, part in features.segments(result):
        shown = escape(visible(segment, keep_lines=part is None))
        if part is None:
            yield shown
            continue
        strength = abs(part.attribution) / maximum
        tone = "for" if part.attribution >= 0 else "against"
        note = safe(_value(part, result))
        # A line may break before a feature, but not between it and its number.
        yield (
            f'<wbr><span class="piece" title="{note}" '
            f'style="background: rgb(var(--{tone}) / calc(var(--most) * {strength:.3f}))">{shown}'
        )
        if strength >= _FAINT:
            value = safe(figures.signed(part.attribution, features.digits(result)))
            yield f'<small dir="ltr">&NoBreak;{value}</small>{"&rlm;" if _right_to_left(segment) else ""}'
        yield "</span>"


def _right_to_left(text: str) -> bool:
    """Whether the text ends in a right-to-left script."""
    strong = [kind for kind in map(unicodedata.bidirectional, text) if kind in ("L", "R", "AL")]
    return bool(strong) and strong[-1] != "L"


def _value(part: v1.FeatureAttribution, result: v1.ExplanationResult) -> str:
    digits_shown = features.digits(result)
    value = figures.signed(part.attribution, digits_shown)
    exact = part.HasField("standard_error") and not part.standard_error
    return value if exact else f"{value} {figures.uncertainty(part, digits_shown)}"


def _verdict(result: v1.ExplanationResult | v1.StudyResult) -> Iterator[str]:
    if result.HasField("trust"):
        sentence, reasons = words.trust(result.trust)
        yield f'<div class="verdict {_VERDICTS.get(result.trust.verdict, "")}"><strong>{safe(sentence)}</strong>'
        yield from (f"<p>{safe(reason)}</p>" for reason in reasons)
        yield "</div>"


def _table(result: v1.ExplanationResult, unit: str) -> Iterator[str]:
    digits_shown, sampled = features.digits(result), features.sampled(result)
    level = next((part.interval.level for part in result.attributions if part.interval.level), 0.95)
    interval = f"{100 * level:.0f}% interval"
    ends = [0.0, *(end for part in result.attributions for end in _ends(part))]
    low, high = min(ends), max(ends)
    if sampled:
        yield f'<p class="soft narrow">In small print: the standard error, and the {interval}.</p>'
    else:
        yield '<p class="soft">These values are exact: nothing was sampled for them.</p>'
    names = [unit, "", "attribution", *(["standard error", interval] if sampled else [])]
    yield f"<table>{_head(names, drawn=1)}<tbody>"
    for part in features.ranked(result):
        yield f'<tr role="row">{_name(part.text)}'
        yield f'<td class="bar" role="cell">{_bar(part, low, high)}</td>'
        yield f'<td class="number" role="cell">{figures.signed(part.attribution, digits_shown)}</td>'
        if sampled:
            yield _more("", figures.uncertainty(part, digits_shown))
            yield _more("", figures.interval(part, digits_shown))
        yield "</tr>"
    yield "</tbody></table>"


def _head(names: Sequence[str], *, drawn: int | None = None) -> str:
    """A table's head, with numbers aligned right except for the first column and the `drawn` one.

    The roles are the elements' own, which they lose on narrow pages, where they are not displayed as a table.
    """
    cells = (
        f'<th scope="col" role="columnheader"{"" if place in (0, drawn) else _NUMBER}>{safe(name)}</th>'
        for place, name in enumerate(names)
    )
    return f'<thead><tr role="row">{"".join(cells)}</tr></thead>'


def _name(text: str) -> str:
    """A row's head. Its column is as wide as its longest word, unless that has to be broken."""
    long = " long" if max(map(len, text.split()), default=0) > _LONG else ""
    return f'<th class="feature{long}" scope="row" role="rowheader" dir="auto">{safe(text)}</th>'


def _more(name: str, value: str) -> str:
    """A cell that a narrow page shows below the first ones, after its column's `name`; hidden if it is empty."""
    label = f' data-label="{safe(name)}"' if name and value else ""
    return f'<td class="number more" role="cell"{label}>{safe(value)}</td>'


def _ends(part: v1.FeatureAttribution) -> Iterator[float]:
    """The ends of a bar and its whisker."""
    yield part.attribution
    if _has_whisker(part):
        yield part.interval.lower
        yield part.interval.upper


def _has_whisker(part: v1.FeatureAttribution) -> bool:
    return part.HasField("interval") and part.interval.lower < part.interval.upper


def _bar(part: v1.FeatureAttribution, low: float, high: float) -> str:
    """A bar from 0 to the value, with a whisker for the interval; the drawing is 200 wide, from `low` to `high`."""

    def x(value: float) -> float:
        return round(1 + 198 * (value - low) / ((high - low) or 1.0), 2)

    start, end = sorted((x(0), x(part.attribution)))
    tone = "for" if part.attribution >= 0 else "against"
    whisker = ""
    if _has_whisker(part):
        left, right = x(part.interval.lower), x(part.interval.upper)
        caps = "".join(f"M{at} 5V13" for at in (left, right)) if right - left >= _NARROW else ""
        whisker = f'<path class="whisker" d="M{left} 9H{right}{caps}"/>'
    return (
        '<svg viewBox="0 0 200 18" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{tone}" x="{start}" y="2" width="{round(end - start, 2)}" height="14"/>'
        f'<path class="axis" d="M{x(0)} 0V18"/>{whisker}</svg>'
    )


def _rows(result: v1.ExplanationResult, spec: v1.ExplanationSpec) -> Iterator[str]:
    drawn = rows(result, spec, top=_ROWS, columns=_COLUMNS)
    if drawn is None:
        return
    columns = [result.attributions[index].text for index in drawn.columns]
    left_out = len(result.attributions) - len(columns)
    yield f'<h2>{safe(drawn.title)}</h2><p class="soft">Its value for the whole prompt, what the prompt adds to it,'
    yield f" and the {safe(words.unit(spec, 2))} that matter most to any of them"
    yield f"; {left_out} smaller are left out.</p>" if left_out else ".</p>"
    yield f'<div class="wide"><table class="rows">{_head((*drawn.header, *columns))}<tbody>'
    for line in drawn.lines:
        yield f'<tr role="row">{_name(line.text)}{_more(drawn.header[1], line.value)}{_more("effect", line.effect)}'
        yield from (_cell(line.parts[index], drawn) for index in drawn.columns)
        yield "</tr>"
    yield "</tbody></table></div>"
    if drawn.more:
        yield f'<p class="soft">and {drawn.more} more</p>'


def _cell(part: v1.FeatureAttribution, drawn: RowTable) -> str:
    """A feature's attribution in a row, coloured by its share of the largest."""
    tone = "for" if part.attribution >= 0 else "against"
    exact = part.HasField("standard_error") and not part.standard_error
    error = "" if exact else f" <small>{safe(figures.uncertainty(part, drawn.digits_shown))}</small>"
    return (
        f'<td class="number more" role="cell" data-label="{safe(part.text)}" '
        f'style="background: rgb(var(--{tone}) / calc(var(--most) * {drawn.share(part):.3f}))">'
        f"{figures.signed(part.attribution, drawn.digits_shown)}{error}</td>"
    )


def _finding(finding: Finding) -> Iterator[str]:
    others = finding.header[2:]
    yield f"<h2>{safe(finding.title)}</h2><table>{_head(finding.header)}<tbody>"
    for text, number, *rest in finding.rows:
        yield f'<tr role="row">{_name(text)}'
        yield f'<td class="number" role="cell">{safe(number)}</td>'
        yield from (_more(label, value) for label, value in zip(others, rest, strict=True))
        yield "</tr>"
    yield "</tbody></table>"
    if finding.more:
        yield f'<p class="soft">and {finding.more} smaller</p>'


def _branch(fitted: Fitted, index: int, answer: str) -> str:
    node = fitted.nodes[index]
    line = f"{answer}<strong>{figures.number(node.value, fitted.digits_shown)}</strong>"
    if not node.HasField("feature"):
        return f'<li>{line} <span class="soft">{node.samples:,} samples</span></li>'
    feature = safe(fitted.names[node.feature])
    children = _branch(fitted, node.present, "present: ") + _branch(fitted, node.absent, fitted.absent)
    return (
        f'<li>{line} <span class="soft">{node.samples:,} samples</span> · <em>{feature}</em>?<ul>{children}</ul></li>'
    )


def _part(branch: Branch) -> str:
    """A part of the text, with its own parts."""
    note = f' <span class="soft">{safe(branch.note)}</span>' if branch.note else ""
    below = "".join(map(_part, branch.children))
    if branch.smaller:
        below += f'<li class="soft">and {branch.smaller} smaller</li>'
    return (
        f'<li><strong dir="ltr">{safe(branch.figures)}</strong> <span class="soft">{safe(branch.level)}</span>'
        f" <bdi>{safe(branch.text)}</bdi>{note}{f'<ul>{below}</ul>' if below else ''}</li>"
    )


def _faithfulness(result: v1.ExplanationResult, units: str) -> Iterator[str]:
    if not result.HasField("faithfulness"):
        return
    found = result.faithfulness
    yield '<h2>Faithfulness</h2><p class="soft">Does the ranking predict what the model does? Compared with '
    yield f"{found.random_rankings} random rankings of the same {safe(units)}.</p>"
    yield f'<table class="metrics">{_head(("metric", "this ranking", "random", "beside random"))}<tbody>'
    for line in words.faithfulness(found, units, words.scale(result.target)):
        tone, reading = _BETTER[line.better]
        random = f"{figures.number(line.metric.random)} ± {figures.number(line.metric.random_deviation)}"
        yield (
            f'<tr role="row"><th class="feature" scope="row" role="rowheader">{line.name}'
            f'<span class="soft">{safe(line.sentence)}</span></th>'
            f'<td class="number told" role="cell">{figures.number(line.metric.value)}</td>'
            f'<td class="number told" role="cell">{random}</td>'
            f'<td class="number {tone}" role="cell">{reading}</td></tr>'
        )
    yield "</tbody></table>"
