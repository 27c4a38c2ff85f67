"""Citations: which sources each sentence of an answer rests on, judged by what an explanation found.

A source is cited for a sentence where both hold:

- it carries at least a share of what all sources do for the sentence, log p(sentence | all) − log p(sentence | none);
- its confidence interval lies above zero, at a level that holds for all intervals looked at together (Bonferroni): one
  for each source and sentence. A method that does not sample has points for intervals.

A sentence rests on none of the sources where they do less for it than a limit; then none is cited. It rests on the
question where leaving that out costs at least the limit, and more than leaving all sources out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gloss import v1
from gloss.student import widened

SHARE = 0.05
LIMIT = 1.0
LEVEL = 0.95


@dataclass(frozen=True)
class Rule:
    """When a source is cited.

    Attributes:
        share: of what all sources do for a sentence, the least that one must carry.
        limit: nats; a sentence for which all sources together do less rests on none of them, and one for which the
            question does less does not rest on that.
        level: confidence that no source is cited by chance, whatever the number of sources and sentences.
    """

    share: float = SHARE
    limit: float = LIMIT
    level: float = LEVEL

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 < self.level < 1):
            raise ValueError("share and level are parts of 1: above 0, share at most 1, level below 1")
        if not (self.limit >= 0 and math.isfinite(self.limit)):
            raise ValueError("limit is a number of nats from 0")


@dataclass(frozen=True)
class Source:
    """A passage of a document, and its lines there, from 1."""

    file: str
    first_line: int
    last_line: int
    text: str

    @property
    def place(self) -> str:
        """``notes.md:3`` or ``notes.md:3-5``."""
        last = f"-{self.last_line}" if self.last_line > self.first_line else ""
        return f"{self.file}:{self.first_line}{last}"


@dataclass(frozen=True)
class Citation:
    """A source that a sentence rests on.

    Attributes:
        source: index into the sources.
        value: what it carries, in the unit of the citations.
        standard_error: 0 for a method that does not sample.
        lower, upper: the interval at the level of them all.
        share: `value` as a part of what all sources do for the sentence.
        cost: nats by which leaving out this source alone lowers log p(sentence); None where that was not tried.
        confirmed: whether that is at least the share that a source must carry. Where others say the same it is not.
    """

    source: int
    value: float
    standard_error: float
    lower: float
    upper: float
    share: float
    cost: float | None = None
    confirmed: bool | None = None


@dataclass(frozen=True)
class Sentence:
    """A sentence of the answer.

    Attributes:
        span: its place in the answer.
        tokens: positions in the answer's tokens.
        log_probability: given the whole prompt and the answer before it, in nats.
        effect: by how much leaving out all sources lowers that.
        citations: what it rests on, the largest first.
        uncertain: how many sources carry enough to be cited, but perhaps by chance.
        unmeasured: of how many sources it is unknown what they carry, as the evaluations or the time ended too early.
        rests_on_none: whether `effect` is below the limit.
        rests_on_question: whether `question_effect` is above `effect`, and not below the limit.
        question_effect: by how much leaving out the question lowers log p; None where that was not tried.
        cited_effect: by how much leaving out all that is cited for it does.
    """

    text: str
    span: tuple[int, int]
    tokens: tuple[int, ...]
    log_probability: float
    effect: float
    citations: tuple[Citation, ...] = ()
    uncertain: int = 0
    unmeasured: int = 0
    rests_on_none: bool = False
    rests_on_question: bool = False
    question_effect: float | None = None
    cited_effect: float | None = None

    @property
    def cited(self) -> list[int]:
        """The sources that are cited for it, by their index, the one that carries most first."""
        return [citation.source for citation in self.citations]

    def with_costs(self, rule: Rule, *, question: float, sources: Sequence[float], together: float) -> Sentence:
        """The sentence with what it costs, in nats, to leave out the question, each cited source, or all of these."""
        citations = tuple(
            replace(citation, cost=cost, confirmed=cost >= rule.share * self.effect)
            for citation, cost in zip(self.citations, sources, strict=True)
        )
        cited_effect = together if citations else None
        return replace(
            self,
            citations=citations,
            rests_on_question=question >= rule.limit and question > self.effect,
            question_effect=question,
            cited_effect=cited_effect,
        )


@dataclass(frozen=True)
class Citations:
    """An answer with what each of its sentences rests on.

    Attributes:
        complete: whether the answer ended by itself, and not at the most tokens allowed.
        sources: all that were looked at.
        level: confidence of each interval alone, by which they hold together.
        explanation: the job that attributed the answer; None for an answer without a sentence.
    """

    question: str
    answer: str
    complete: bool
    sources: tuple[Source, ...]
    sentences: tuple[Sentence, ...]
    rule: Rule
    level: float = LEVEL
    explanation: v1.Explanation | None = None

    @property
    def numbers(self) -> dict[int, int]:
        """The numbers of the cited sources, from 1 in the order in which the answer comes to them, by their index."""
        order = dict.fromkeys(source for sentence in self.sentences for source in sentence.cited)
        return {source: number for number, source in enumerate(order, 1)}


def joint_level(result: v1.ExplanationResult, rule: Rule) -> float:
    """The confidence level of one interval of each source and sentence, so that all hold together."""
    return 1 - (1 - rule.level) / max(1, len(result.attributions) * len(result.rows))


def judge(result: v1.ExplanationResult, rule: Rule) -> tuple[Sentence, ...]:
    """The sentences of an explained answer, a row each, with the sources that are cited for them.

    Their spans count in the answer without the white space that it begins with.
    """
    level, text = joint_level(result, rule), result.target.text
    begin = len(text) - len(text.lstrip())
    return tuple(_sentence(row, rule, level, begin) for row in result.rows)


def _sentence(row: v1.AttributionRow, rule: Rule, level: float, begin: int) -> Sentence:
    effect = row.full_value - row.base_value
    rests_on_none = effect < rule.limit
    citations, uncertain = ((), 0) if rests_on_none else _citations(row, effect, rule, level)
    return Sentence(
        text=row.text,
        span=(row.span.start - begin, row.span.end - begin),
        tokens=tuple(row.positions),
        log_probability=row.full_value,
        effect=effect,
        citations=citations,
        uncertain=uncertain,
        unmeasured=0 if rests_on_none else sum(not math.isfinite(error) for error in row.standard_errors),
        rests_on_none=rests_on_none,
    )


def _citations(row: v1.AttributionRow, effect: float, rule: Rule, level: float) -> tuple[tuple[Citation, ...], int]:
    """What is cited for a row, the largest first, and how many others carry enough, but perhaps by chance."""
    errors = row.standard_errors or [0.0] * len(row.attributions)
    reach = widened(row.interval_reach, row.interval_level, level) if any(errors) else 0.0
    found = [
        Citation(index, value, error, value - reach * error, value + reach * error, value / effect if effect else 1.0)
        for index, (value, error) in enumerate(zip(row.attributions, errors, strict=True))
        if math.isfinite(error) and value > 0 and value >= rule.share * effect
    ]
    cited = [each for each in found if each.lower > 0]
    return tuple(sorted(cited, key=lambda each: -each.value)), len(found) - len(cited)


def as_dict(found: Citations) -> dict[str, Any]:
    """The citations for machines."""
    explanation = found.explanation or v1.Explanation()
    unit = v1.AttributionUnit.Name(explanation.result.attribution_unit).removeprefix("ATTRIBUTION_UNIT_")
    return {
        "question": found.question,
        "answer": found.answer,
        "complete": found.complete,
        "model": {"name": explanation.model.name, "digest": explanation.model.digest},
        "explanation": explanation.name,
        "method": explanation.method,
        "unit": unit.lower(),
        "share": found.rule.share,
        "limit": found.rule.limit,
        "level": found.rule.level,
        "sources_looked_at": len(found.sources),
        "sources": [_source(found, index) for index in found.numbers],
        "sentences": [_sentence_dict(found, sentence) for sentence in found.sentences],
    }


def _source(found: Citations, index: int) -> dict[str, Any]:
    source = found.sources[index]
    return {
        "number": found.numbers[index],
        "file": source.file,
        "first_line": source.first_line,
        "last_line": source.last_line,
        "text": source.text,
    }


def _sentence_dict(found: Citations, sentence: Sentence) -> dict[str, Any]:
    return {
        "text": sentence.text,
        "start": sentence.span[0],
        "end": sentence.span[1],
        "log_probability": sentence.log_probability,
        "effect": sentence.effect,
        "question_effect": sentence.question_effect,
        "cited_effect": sentence.cited_effect,
        "uncertain": sentence.uncertain,
        "unmeasured": sentence.unmeasured,
        "rests_on_none": sentence.rests_on_none,
        "rests_on_question": sentence.rests_on_question,
        "citations": [
            {
                **_source(found, each.source),
                "value": each.value,
                "standard_error": each.standard_error,
                "interval": {"lower": each.lower, "upper": each.upper, "level": found.level},
                "share": each.share,
                "cost": each.cost,
                "confirmed": each.confirmed,
            }
            for each in sentence.citations
        ],
    }
