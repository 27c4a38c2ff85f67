"""What citations say, in plain words: shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator

from gloss import v1
from gloss.citations import Citation, Citations, Sentence
from gloss.render import figures, words
from gloss.render.escaping import visible


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
    """The method, and the model with the name of the job; both empty where there was nothing to explain."""
    if (explanation := found.explanation) is None:
        return "", ""
    return words.method(explanation), f"{words.model(explanation.model)} · {visible(explanation.name)}"


def ending(found: Citations) -> str:
    """What there is to say of the answer as a whole; empty where there is nothing."""
    if not found.complete:
        return "The answer was cut at the most tokens that were allowed."
    return "" if found.sentences else "The model answers nothing."


def value_line(sentence: Sentence) -> str:
    """How likely the sentence is, with the sources and without."""
    without = sentence.log_probability - sentence.effect
    return f"log p = {figures.number(sentence.log_probability)}; without any source {figures.number(without)}"


def remarks(sentence: Sentence, found: Citations) -> Iterator[str]:
    """What a sentence rests on beside what is cited for it, in whole sentences."""
    effect = figures.number(sentence.effect)
    if sentence.rests_on_none and sentence.effect < 0:
        less = figures.number(-sentence.effect)
        yield f"Rests on none of them: all sources together make it less likely, by {less} nats."
    elif sentence.rests_on_none:
        yield f"Rests on none of them: all sources together add {effect} nats, and the limit is {found.rule.limit:g}."
    elif sentence.unmeasured:
        sources = "1 source carries" if sentence.unmeasured == 1 else f"{sentence.unmeasured:,} sources carry"
        yield f"It is unknown what {sources}: more evaluations or time will show. All together add {effect} nats."
    elif not sentence.citations:
        yield f"No source alone can be cited, though all together add {effect} nats."
    if sentence.uncertain and not sentence.citations:
        carry = "1 source carries" if sentence.uncertain == 1 else f"{sentence.uncertain:,} sources carry"
        yield f"{carry} enough to be cited, but perhaps by chance: more evaluations will show."
    if len(sentence.citations) > 1 and sentence.cited_effect is not None:
        together = figures.number(sentence.cited_effect)
        yield f"Leaving out these {len(sentence.citations)} costs {together} nats, leaving out all sources {effect}."
    if sentence.rests_on_question:
        asked, too = figures.number(sentence.question_effect or 0.0), " as well" if sentence.citations else ""
        yield f"Rests on the question{too}: leaving it out costs {asked} nats, leaving out all sources {effect}."


def value(citation: Citation) -> str:
    """What a source carries: ``+4.20 ± 0.31``."""
    error = f" ± {figures.number(citation.standard_error)}" if citation.standard_error else ""
    return f"{figures.signed(citation.value)}{error}"


def share(citation: Citation) -> str:
    """As a part of what all sources do."""
    return f"{100 * citation.share:.0f}%"


def interval(citation: Citation) -> str:
    """``+3.10 to +5.30``; nothing for a point."""
    if citation.lower == citation.upper:
        return ""
    return f"{figures.signed(citation.lower)} to {figures.signed(citation.upper)}"


def alone(citation: Citation) -> str:
    """What leaving out the source alone costs, and whether that is as much as a source must carry."""
    if citation.cost is None:
        return ""
    return f"{figures.number(citation.cost)} {'✔' if citation.confirmed else '✘'}"


def rule(found: Citations) -> str:
    """When a source is cited, and what the numbers are, where there are any."""
    sampled = any(citation.standard_error for sentence in found.sentences for citation in sentence.citations)
    by_chance = f" and is not there by chance ({100 * found.rule.level:g}% for all together)" if sampled else ""
    unit = "in log-odds" if _unit(found) == v1.ATTRIBUTION_UNIT_LOG_ODDS else "in nats"
    least = f"{100 * found.rule.share:g}%"
    sources = f"{len(found.sources):,} sources were" if len(found.sources) != 1 else "1 source was"
    carries = f"it carries at least {least} of what all do for a sentence{by_chance}"
    when = f"{sources} looked at. One is cited where {carries}."
    if not found.numbers:
        return when
    return (
        f"{when} What a source carries is {unit}. Alone: what leaving out nothing else costs, in nats; ✘ is less than"
        f" {least}, as where others say the same."
    )


def cost(found: Citations) -> str:
    """What the job took."""
    return words.cost(found.explanation.result) if found.explanation else ""


def _unit(found: Citations) -> int:
    return found.explanation.result.attribution_unit if found.explanation else v1.ATTRIBUTION_UNIT_UNSPECIFIED
