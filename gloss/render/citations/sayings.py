"""What citations say, in plain words: shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator

from gloss import v1
from gloss.citations import Citation, Citations, Sentence
from gloss.render import words


def segments(found: Citations) -> Iterator[tuple[str, Sentence | None]]:
    """The answer in order: each sentence, and what stands between two of them."""
    position = 0
    for sentence in found.sentences:
        start, end = sentence.span
        if start > position:
            yield found.answer[position:start], None
        yield found.answer[start:end], sentence
        position = end
    if position < len(found.answer):
        yield found.answer[position:], None


def heading(found: Citations) -> tuple[str, str]:
    """The method, and the model with the name of the job."""
    explanation = found.explanation or v1.Explanation()
    return words.method(explanation), f"{words.model(explanation.model)} · {words.visible(explanation.name)}"


def ending(found: Citations) -> str:
    """What there is to say of the answer as a whole; empty where there is nothing."""
    if not found.sentences:
        return "The model answers nothing."
    return "" if found.complete else "The answer was cut at the most tokens that were allowed."


def value_line(sentence: Sentence) -> str:
    """How likely the sentence is, with the sources and without."""
    without = sentence.log_probability - sentence.effect
    return f"log p = {words.number(sentence.log_probability)}; without any source {words.number(without)}"


def remarks(sentence: Sentence, found: Citations) -> Iterator[str]:
    """What a sentence rests on beside what is cited for it, in whole sentences."""
    effect = words.signed(sentence.effect)
    if sentence.rests_on_none:
        yield f"Rests on none of them: all sources together add {effect} nats, less than {found.rule.limit:g}."
    elif not sentence.citations:
        yield f"No source alone can be cited, though all together add {effect} nats."
    if sentence.rests_on_question:
        asked = words.signed(sentence.question_effect or 0.0)
        yield f"Rests on the question: leaving it out costs {asked} nats, leaving all sources out {effect}."
    if len(sentence.citations) > 1 and sentence.cited_effect is not None:
        yield f"Leaving all {len(sentence.citations)} out costs {words.number(sentence.cited_effect)} nats of {effect}."


def value(citation: Citation) -> str:
    """What a source carries: ``+4.20 ± 0.31``."""
    error = f" ± {words.number(citation.standard_error)}" if citation.standard_error else ""
    return f"{words.signed(citation.value)}{error}"


def share(citation: Citation) -> str:
    """As a part of what all sources do."""
    return f"{100 * citation.share:.0f}%"


def interval(citation: Citation) -> str:
    """``+3.10 to +5.30``; nothing for a point."""
    if citation.lower == citation.upper:
        return ""
    return f"{words.signed(citation.lower)} to {words.signed(citation.upper)}"


def confirmation(citation: Citation) -> str:
    """Whether leaving out the source alone costs what it should."""
    if citation.cost is None:
        return ""
    if citation.confirmed:
        return f"✔ leaving it out costs {words.number(citation.cost)}"
    return f"✘ leaving it out alone costs {words.number(citation.cost)}"


def rule(found: Citations) -> str:
    """When a source is cited."""
    sampled = any(citation.standard_error for sentence in found.sentences for citation in sentence.citations)
    unit = " log-odds" if _unit(found) == v1.ATTRIBUTION_UNIT_LOG_ODDS else ""
    by_chance = f", and more than 0 with {100 * found.rule.level:g}% confidence for all together" if sampled else ""
    return (
        f"Of {len(found.sources)} sources, those are cited that carry at least {100 * found.rule.share:g}% of what all"
        f" do for a sentence{by_chance}. Values are in{unit or ' nats'}."
    )


def reasons(found: Citations) -> list[str]:
    """Why not to rely on it, if there is any reason."""
    return list(found.explanation.result.trust.reasons) if found.explanation else []


def cost(found: Citations) -> str:
    """What the job took."""
    return words.cost(found.explanation.result) if found.explanation else ""


def _unit(found: Citations) -> int:
    return found.explanation.result.attribution_unit if found.explanation else v1.ATTRIBUTION_UNIT_UNSPECIFIED
