"""When a source is cited."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats

from gloss import v1
from gloss.citations import Citations, Rule, Source, as_dict, joint_level, judge
from gloss.render.citations.page import page
from gloss.render.citations.sayings import remarks

REACH = 1.959963984540054


def result(*rows: Sequence[float], errors: Sequence[float] = (), full: float = -10.0) -> v1.ExplanationResult:
    """Rows of attributions, whose sum is what all sources do."""
    found = v1.ExplanationResult(attributions=[v1.FeatureAttribution(text=str(i)) for i in range(len(rows[0]))])
    for values in rows:
        found.rows.append(
            v1.AttributionRow(
                text="So.",
                span=v1.CharacterSpan(start=0, end=3),
                positions=[0],
                base_value=full - sum(values),
                full_value=full,
                attributions=values,
                standard_errors=errors,
                interval_reach=REACH,
                interval_level=0.95,
            )
        )
    return found


def test_a_source_carries_its_share_and_opposing_ones_are_none() -> None:
    [sentence] = judge(result([9.0, 0.0, 0.49, 0.6, -0.09]), Rule())
    assert sentence.effect == pytest.approx(10)
    assert sentence.cited == [0, 3]
    assert [citation.share for citation in sentence.citations] == pytest.approx([0.9, 0.06])
    [strict] = judge(result([9.0, 0.0, 0.49, 0.6, -0.09]), Rule(share=0.5))
    assert strict.cited == [0]


def test_intervals_are_corrected_for_all_that_were_looked_at() -> None:
    values = [4.0, 4.0, 4.0]
    alone = 4.0 / REACH * 0.99  # an error with which an interval by itself excludes zero
    together = 4.0 / float(stats.norm.isf(0.05 / 2 / 6))  # six intervals: three sources, two sentences
    for error, expected in ((together * 0.99, [0, 1, 2]), (together * 1.01, []), (alone, []), (math.inf, [])):
        for sentence in judge(result(values, values, errors=[error] * 3), Rule()):
            assert sentence.cited == expected
            assert sentence.uncertain == (0 if expected or math.isinf(error) else 3)
            assert all(citation.lower > 0 for citation in sentence.citations)
    assert joint_level(result(values, values), Rule()) == pytest.approx(1 - 0.05 / 6)


def test_where_nothing_is_cited_sources_that_may_be_there_by_chance_are_counted() -> None:
    def said(values: list[float], errors: list[float]) -> str:
        sentences = judge(result(values, errors=errors), Rule())
        return " ".join(remarks(sentences[0], Citations("Why?", "So.", True, (), sentences, Rule())))

    assert "2 sources carry enough to be cited, but perhaps by chance" in said([4.0, 4.0, 0.1], [9.0, 9.0, 9.0])
    assert "1 source carries enough" in said([4.0, 0.1, 0.1], [9.0, 9.0, 9.0])
    assert "by chance" not in said([4.0, 4.0, 9.0], [9.0, 9.0, 0.1])


@pytest.mark.parametrize(
    ("values", "said"), [([0.5, 0.4], "add 0.90 nats, and the limit is 1"), ([-5.0, 1.0], "less likely, by 4.00 nats")]
)
def test_what_sources_do_for_a_sentence_that_rests_on_none_is_said(values: list[float], said: str) -> None:
    sentences = judge(result(values), Rule())
    assert said in " ".join(remarks(sentences[0], Citations("Why?", "So.", True, (), sentences, Rule())))


@pytest.mark.parametrize("values", [[0.5, 0.4], [0.0, 0.0], [-5.0, 1.0], [-20.0, 0.0]])
def test_a_sentence_for_which_all_sources_do_little_rests_on_none(values: list[float]) -> None:
    [sentence] = judge(result(values), Rule())
    assert sentence.rests_on_none
    assert not sentence.citations


@pytest.mark.parametrize(("unknown", "said"), [(1, "what 1 source carries"), (3, "what 3 sources carry")])
def test_what_was_not_measured_is_not_said_to_carry_nothing(unknown: int, said: str) -> None:
    found = result([0.0] * unknown + [8.0], errors=[math.inf] * unknown + [0.1])
    [sentence] = judge(found, Rule())
    assert (sentence.unmeasured, sentence.cited) == (unknown, [unknown])
    none_cited = replace(sentence, citations=())
    citations = Citations("Why?", "So.", True, (), (none_cited,), Rule())
    [remark] = remarks(none_cited, citations)
    assert said in remark
    assert "All together add 8.00 nats" in remark
    [rests_on_none] = judge(found, Rule(limit=9))
    assert rests_on_none.unmeasured == 0


def test_the_limit_is_a_setting_and_may_be_zero() -> None:
    assert not judge(result([0.5, 0.4]), Rule(limit=0))[0].rests_on_none
    [nothing] = judge(result([0.0, 0.0]), Rule(limit=0))
    assert (nothing.rests_on_none, nothing.citations) == (False, ())


@pytest.mark.parametrize(
    ("sources", "question", "rests"),
    [
        ([9.0, 1.0], 10.1, True),
        ([9.0, 1.0], 10.0, False),
        ([9.0, 1.0], -3.0, False),
        ([0.1, 0.1], 0.9, False),  # more than the sources, and next to nothing
        ([0.1, 0.1], 1.0, True),
        ([-2.0, -1.0], -0.5, False),  # without the question it is likelier
    ],
)
def test_a_sentence_rests_on_the_question_where_that_does_more_than_all_sources_and_more_than_little(
    sources: list[float], question: float, rests: bool
) -> None:
    [sentence] = judge(result(sources), Rule())
    assert (
        sentence.with_costs(
            Rule(), question=question, sources=[1.0] * len(sentence.citations), together=1.0
        ).rests_on_question
        is rests
    )


def test_what_is_left_out_confirms_a_citation_that_costs_its_share() -> None:
    [sentence] = judge(result([9.0, 1.0]), Rule())
    assert not sentence.rests_on_question  # it was not tried
    tried = sentence.with_costs(Rule(), question=0.0, sources=[8.0, 0.1], together=9.5)
    assert [citation.confirmed for citation in tried.citations] == [True, False]


@pytest.mark.parametrize("setting", [{"share": 0}, {"share": 1.1}, {"level": 1}, {"limit": -1}, {"limit": math.nan}])
def test_a_rule_that_makes_no_sense_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"share|limit"):
        Rule(**setting)


def test_a_page_has_a_column_of_intervals_where_there_are_any() -> None:
    sources = (Source("a.md", 1, 1, "One."), Source("a.md", 2, 2, "Two."))
    for errors, shown in (([], False), ([0.1, 0.1], True)):
        sentences = judge(result([9.0, 1.0], errors=errors), Rule())
        drawn = page(Citations("Why?", "So.", True, sources, sentences, Rule()))
        assert ("% interval" in drawn) is shown


def test_sources_are_numbered_as_the_answer_comes_to_them() -> None:
    sentences = judge(result([0.0, 9.0, 1.0], [8.0, 2.0, 0.0]), Rule())
    sources = tuple(Source("a.md", line, line + line % 2, f"source {line}") for line in (1, 2, 3))
    found = Citations("Why?", "So. So.", True, sources, sentences, Rule())
    assert found.numbers == {1: 1, 2: 2, 0: 3}
    shown = json.loads(json.dumps(as_dict(found), allow_nan=False))
    assert [each["text"] for each in shown["sources"]] == ["source 2", "source 3", "source 1"]
    assert [[each["number"] for each in one["citations"]] for one in shown["sentences"]] == [[1, 2], [3, 1]]
    assert [source.place for source in sources] == ["a.md:1-2", "a.md:2", "a.md:3-4"]
