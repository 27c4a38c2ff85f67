"""Citations as a page that stands alone: the answer beside its sources, each linked to the other.

As for explanations, everything that comes from a document, a model or a server is escaped, and scripts are forbidden.
"""

from __future__ import annotations

from collections.abc import Iterator

from gloss import v1
from gloss.citations import Citation, Citations, Sentence
from gloss.render.citations import sayings
from gloss.render.html import filled, safe


def page(found: Citations) -> str:
    """The page of an answer with its citations."""
    explanation = found.explanation or v1.Explanation()
    return filled(
        f"Sources: {found.question[:60]}",
        found.question,
        origin=" · ".join(filter(None, sayings.heading(found))),
        body=_body(found),
        cost=sayings.cost(found),
        asked=explanation.spec,
    )


def _body(found: Citations) -> Iterator[str]:
    yield '<div class="beside"><section><h2>Answer</h2><div class="text" dir="auto">'
    numbers = iter(range(1, len(found.sentences) + 1))
    for segment, sentence in sayings.segments(found):
        text = safe(segment) if "\n" not in segment else "\n".join(map(safe, segment.split("\n")))
        yield text if sentence is None else _cited(text, next(numbers), sentence, found)
    yield "</div>"
    if ending := sayings.ending(found):
        yield f'<p class="soft">{safe(ending)}</p>'
    yield '</section><section><h2>Sources</h2><ol class="sources">'
    yield from _sources(found)
    yield f'</ol></section></div><p class="soft">{safe(sayings.rule(found)) if found.sentences else ""}</p>'
    if found.sentences:
        yield "<h2>What each sentence rests on</h2>"
    for number, sentence in enumerate(found.sentences, 1):
        yield from _details(number, sentence, found)


def _cited(text: str, number: int, sentence: Sentence, found: Citations) -> str:
    """A sentence, with a link to each of its sources."""
    links = "".join(_to_source(found.numbers[source]) for source in sentence.cited)
    return f'<span class="sentence" id="sentence-{number}">{text}<sup>{links}</sup></span>'


def _to_source(number: int) -> str:
    return f'<a href="#source-{number}" title="source {number}">[{number}]</a>'


def _sources(found: Citations) -> Iterator[str]:
    for index, number in found.numbers.items():
        source = found.sources[index]
        text = "\n".join(map(safe, source.text.split("\n")))
        back = ", ".join(
            f'<a href="#sentence-{place}">{place}</a>'
            for place, sentence in enumerate(found.sentences, 1)
            if index in sentence.cited
        )
        yield f'<li id="source-{number}" value="{number}"><span class="soft">{safe(source.place)}</span>'
        yield f'<blockquote dir="auto">{text}</blockquote><span class="soft">cited for sentence {back}</span></li>'


def _details(number: int, sentence: Sentence, found: Citations) -> Iterator[str]:
    yield f'<h3 dir="auto"><a href="#sentence-{number}">{number}</a> {safe(sentence.text.strip())}</h3>'
    yield f'<p class="soft">{safe(sayings.value_line(sentence))}</p>'
    if sentence.citations:
        interval = [f"{100 * found.level:.4g}% interval"] if _has_intervals(found) else []
        names = ("source", "carries", "of all", *interval, "alone")
        head = "".join(f'<th scope="col"{_number(place)}>{safe(name)}</th>' for place, name in enumerate(names))
        yield f'<div class="wide"><table class="rows"><thead><tr>{head}</tr></thead><tbody>'
        yield from (_row(citation, found) for citation in sentence.citations)
        yield "</tbody></table></div>"
    yield from (f"<p>{safe(remark)}</p>" for remark in sayings.remarks(sentence, found))


def _row(citation: Citation, found: Citations) -> str:
    number = found.numbers[citation.source]
    interval = [sayings.interval(citation)] if _has_intervals(found) else []
    cells = (sayings.value(citation), sayings.share(citation), *interval, sayings.alone(citation))
    drawn = "".join(f'<td class="number">{safe(cell)}</td>' for cell in cells)
    place = safe(found.sources[citation.source].place)
    return f'<tr><th class="feature" scope="row">{_to_source(number)} {place}</th>{drawn}</tr>'


def _has_intervals(found: Citations) -> bool:
    """Whether any citation has more than a point."""
    return any(sayings.interval(citation) for sentence in found.sentences for citation in sentence.citations)


def _number(place: int) -> str:
    return ' class="number"' if place else ""
