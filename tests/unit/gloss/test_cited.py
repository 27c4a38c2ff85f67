"""Citations as they are drawn: on terminals of any width, and as a page."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from gloss import v1
from gloss.citations import Citation, Citations, Rule, Sentence, Source
from gloss.render.citations import page, sayings, terminal

PLACE = "/usr/share/doc/a folder with a long name/README.first.md"


def cited(*cited: tuple[int, ...], sources: int = 3) -> Citations:
    """Sentences that rest on sources, by their indices."""
    text, sentences = "", []
    for index, each in enumerate(cited):
        citations = tuple(
            Citation(source, 120.5 + source, 10.25, 1, 2, 0.5, cost=-100.25 - source, confirmed=False)
            for source in each
        )
        said = f"Sentence {index}."
        sentences.append(Sentence(said, (len(text), len(text) + len(said)), (index,), -1234.5, 200.0, citations))
        text += f"{said} "
    found = tuple(Source(PLACE, line, line + 1, f"Source {line}.") for line in range(1, sources + 1))
    explanation = v1.Explanation(name="explanations/1", method="kernel_shap") if sentences else None
    return Citations("Why?", text.strip(), True, found, tuple(sentences), Rule(), explanation=explanation)


def drawn(found: Citations, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(terminal.citations(found), crop=False)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_numbers_and_places_are_whole_on_terminals_of_any_width(width: int) -> None:
    found = cited((0, 1), (2,))
    shown = drawn(found, width)
    assert max(map(len, shown.splitlines())) <= width
    for citation in (each for sentence in found.sentences for each in sentence.citations):
        for number in (sayings.value(citation), sayings.share(citation), sayings.alone(citation)):
            assert number in shown
    for source in found.sources:
        assert source.text in shown
        assert source.place.replace(" ", "") in re.sub(r"Source \d\.|\s", "", shown)


@pytest.mark.parametrize("found", [cited((0, 1), (1,), ()), cited(()), cited((2, 0, 1)), cited()])
def test_answer_and_sources_are_linked_both_ways(found: Citations) -> None:
    html = page.page(found)
    ids = Counter(re.findall(r'id="([^"]+)"', html))
    assert set(ids.values()) <= {1}
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    for number, sentence in enumerate(found.sentences, 1):
        linked = html.split(f'id="sentence-{number}"')[1].split("</span>")[0]
        assert re.findall(r'href="#source-(\d+)"', linked) == [str(found.numbers[each]) for each in sentence.cited]
    for index, number in found.numbers.items():
        back = html.split(f'id="source-{number}"')[1].split("</li>")[0]
        expected = [str(place) for place, each in enumerate(found.sentences, 1) if index in each.cited]
        assert re.findall(r'href="#sentence-(\d+)"', back) == expected


def test_nothing_answered_is_said_and_no_job_is_named() -> None:
    assert drawn(cited(), 80).split("\n") == ["Why?", "The model answers nothing.", ""]
    assert "Explanation" not in page.page(cited())


@pytest.mark.parametrize(("sources", "said"), [(1, "1 source was looked at"), (1200, "1,200 sources were looked at")])
def test_numbers_are_those_that_are_shown(sources: int, said: str) -> None:
    assert sayings.rule(cited((), sources=sources)).startswith(said)
    assert "✘" not in sayings.rule(cited((), sources=sources))
    assert "✘" in sayings.rule(cited((0,), sources=sources))
