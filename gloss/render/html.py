"""An explanation as a page that stands alone: no scripts, nothing loaded from elsewhere, light and dark.

Everything that comes from a prompt, a model or a server is escaped; the page's own policy forbids scripts besides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from string import Template

from google.protobuf.text_format import MessageToString

from gloss import v1
from gloss.render import words
from gloss.render.findings import Finding, findings

_VERDICTS = {
    v1.TRUST_VERDICT_TRUSTED: "trusted",
    v1.TRUST_VERDICT_CAUTION: "caution",
    v1.TRUST_VERDICT_NOT_TRUSTED: "refused",
}
_SIGNS = '<span class="for">speaks for it</span><span class="against">speaks against it</span>'
_SHARES = '<span class="for">where the prediction comes from</span>'
_BETTER = {
    True: ("better", "better than random"),
    None: ("alike", "like random"),
    False: ("worse", "worse than random"),
}


def page(explanation: v1.Explanation) -> str:
    """The page of a finished explanation, or of what is known of an unfinished one."""
    result = explanation.result if explanation.HasField("result") else explanation.partial_result
    spec = explanation.spec
    template = Template((files("gloss.render") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=_safe(f"{words.method(spec)}: {result.text[:60]}"),
        heading=_safe(f"{words.method(spec)}: why {result.target.description}?"),
        origin=_safe(f"{words.model(explanation.model)} · {explanation.name} · {words.state(explanation)}"),
        question=_safe(words.value_line(result, spec)),
        text="".join(_text(result)),
        unit=_safe(words.unit(spec)),
        verdict="".join(_verdict(result)),
        attributions=_unit(words.unit_line(result, spec)) + "".join(_table(result, words.unit(spec))),
        key=_SHARES if words.tells_shares(spec) else _SIGNS,
        findings="".join(part for finding in findings(result, top=50) for part in _finding(finding)),
        surrogate="".join(_surrogate(result)),
        faithfulness="".join(_faithfulness(result, words.unit(spec, 2))),
        cost=_safe(words.cost(result)),
        spec="\n".join(_safe(line) for line in MessageToString(spec, as_utf8=True).split("\n")),
    )


def _unit(line: str) -> str:
    return f'<p class="soft">{_safe(line)}</p>' if line else ""


def _safe(text: str) -> str:
    """Text that a page may hold: its markup escaped, its control characters shown."""
    return escape(words.visible(text))


def _text(result: v1.ExplanationResult) -> Iterator[str]:
    most = words.largest(result)
    for piece, part in words.pieces(result):
        shown = escape(words.visible(piece, keep_lines=part is None))
        if part is None:
            yield shown
            continue
        strength = abs(part.attribution) / most
        tone = "for" if part.attribution >= 0 else "against"
        note = _safe(_value(part, result))
        yield (
            f'<span tabindex="0" title="{note}" data-value="{note}" '
            f'style="background: rgb(var(--{tone}) / {0.7 * strength:.3f})">{shown}</span>'
        )


def _value(part: v1.FeatureAttribution, result: v1.ExplanationResult) -> str:
    places = words.digits(result)
    value = words.signed(part.attribution, places)
    return f"{value} ± {words.uncertainty(part.standard_error, places)}" if part.standard_error else value


def _verdict(result: v1.ExplanationResult) -> Iterator[str]:
    if result.HasField("trust"):
        sentence, reasons = words.trust(result.trust)
        yield f'<div class="verdict {_VERDICTS.get(result.trust.verdict, "")}"><strong>{_safe(sentence)}</strong>'
        yield from (f"<p>{_safe(reason)}</p>" for reason in reasons)
        yield "</div>"


def _table(result: v1.ExplanationResult, unit: str) -> Iterator[str]:
    places = words.digits(result)
    level = next((part.interval.level for part in result.attributions if part.interval.level), 0.95)
    reach = max((_reach(part) for part in result.attributions), default=0.0) or 1.0
    yield f'<table><tr><th>{_safe(unit)}</th><th></th><th class="number">attribution</th>'
    yield f'<th class="number">± s.e.</th><th class="number">{100 * level:.0f}% interval</th></tr>'
    for part in words.ranked(result):
        low, high = words.signed(part.interval.lower, places), words.signed(part.interval.upper, places)
        exact = not part.standard_error
        yield (
            f'<tr><td class="feature">{_safe(part.text)}</td><td>{_bar(part, reach)}</td>'
            f'<td class="number">{words.signed(part.attribution, places)}</td>'
            f'<td class="number">{"exact" if exact else words.uncertainty(part.standard_error, places)}</td>'
            f'<td class="number">{"" if exact else f"{low} to {high}"}</td></tr>'
        )
    yield "</table>"


def _reach(part: v1.FeatureAttribution) -> float:
    interval = max(abs(part.interval.lower), abs(part.interval.upper)) if part.standard_error else 0.0
    interval = 0.0 if math.isinf(interval) else interval
    return float(max(abs(part.attribution), interval))


def _bar(part: v1.FeatureAttribution, reach: float) -> str:
    """A diverging bar, with a whisker for the interval; the drawing is 200 wide, 0 in the middle."""

    def x(value: float) -> float:
        return round(100 + 98 * value / reach, 2)

    start, end = sorted((100.0, x(part.attribution)))
    tone = "for" if part.attribution >= 0 else "against"
    whisker = ""
    if part.standard_error and not math.isinf(part.standard_error):
        left, right = x(part.interval.lower), x(part.interval.upper)
        whisker = (
            f'<line class="whisker" x1="{left}" x2="{right}" y1="9" y2="9"/>'
            f'<line class="whisker" x1="{left}" x2="{left}" y1="6" y2="12"/>'
            f'<line class="whisker" x1="{right}" x2="{right}" y1="6" y2="12"/>'
        )
    return (
        '<svg viewBox="0 0 200 18" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{tone}" x="{start}" y="2" width="{round(end - start, 2)}" height="14" rx="2"/>'
        f'<line class="axis" x1="100" x2="100" y1="0" y2="18"/>{whisker}</svg>'
    )


def _finding(finding: Finding) -> Iterator[str]:
    yield f"<h2>{_safe(finding.title)}</h2><table><tr><th>{_safe(finding.header[0])}</th>"
    yield from (f'<th class="number">{_safe(name)}</th>' for name in finding.header[1:])
    yield "</tr>"
    for name, *numbers in finding.rows:
        cells = "".join(f'<td class="number">{_safe(each)}</td>' for each in numbers)
        yield f'<tr><td class="feature">{_safe(name)}</td>{cells}</tr>'
    yield "</table>"
    if finding.more:
        yield f'<p class="soft">and {finding.more} smaller</p>'


def _surrogate(result: v1.ExplanationResult) -> Iterator[str]:
    if result.HasField("surrogate"):
        yield f"<h2>Surrogate</h2><p>{_safe(words.surrogate(result.surrogate))}</p>"
        if result.surrogate.nodes:
            yield f'<ul class="tree">{_branch(result, 0, "")}</ul>'


def _branch(result: v1.ExplanationResult, index: int, answer: str) -> str:
    node = result.surrogate.nodes[index]
    line = f"{answer}<strong>{words.number(node.value, words.digits(result))}</strong>"
    if node.feature < 0:
        return f'<li>{line} <span class="soft">{node.samples} samples</span></li>'
    feature = _safe(words.asked_about(result)[node.feature])
    children = _branch(result, node.present, "present: ") + _branch(result, node.absent, words.absent(result))
    return f'<li>{line} <span class="soft">{node.samples} samples</span> · <em>{feature}</em>?<ul>{children}</ul></li>'


def _faithfulness(result: v1.ExplanationResult, units: str) -> Iterator[str]:
    if not result.HasField("faithfulness"):
        return
    found = result.faithfulness
    yield '<h2>Faithfulness</h2><p class="soft">Does the ranking predict what the model does? Beside '
    yield f"{found.random_rankings} random rankings of the same {_safe(units)}.</p>"
    yield '<table><tr><th>metric</th><th class="number">this ranking</th><th class="number">random</th><th></th></tr>'
    for line in words.faithfulness(found, units, words.scale(result.target)):
        tone, reading = _BETTER[line.better]
        random = f"{words.number(line.metric.random)} ± {words.number(line.metric.random_deviation)}"
        yield (
            f'<tr><td>{line.name}<br><span class="soft">{_safe(line.sentence)}</span></td>'
            f'<td class="number">{words.number(line.metric.value)}</td><td class="number">{random}</td>'
            f'<td class="{tone}">{reading}</td></tr>'
        )
    yield "</table>"
