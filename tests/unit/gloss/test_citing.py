"""Asking for citations, against a scripted server: which answer is explained."""

from __future__ import annotations

from typing import Any

import pytest

from gloss import Client, documents, v1
from tests.unit.gloss import fake

CONTEXT, QUESTION = "One line.", "Why?"
REPLACEMENT = "\ufffd"


def explained(script: fake.Script) -> str:
    """The answer that was sent to be explained."""
    [request] = script.requests["CreateExplanation"]
    assert isinstance(request, v1.CreateExplanationRequest)
    return request.spec.target.continuation.text


@pytest.mark.parametrize("end", ["", "\n", "\nQ", "\n\nQuestion", " \nQuestion", REPLACEMENT, REPLACEMENT * 2, " "])
def test_an_answer_that_was_cut_has_no_half_of_a_character_or_of_a_stop_text(
    client: Client, script: fake.Script, end: str
) -> None:
    script.generated, script.finish_reason = (" Paris", ".", end), v1.FINISH_REASON_LENGTH
    found = client.cite(CONTEXT, QUESTION)
    assert explained(script) == " Paris."
    assert not found.complete


@pytest.mark.parametrize("end", ["\nQueen", "\nQuestions", " Question", "!"])
def test_other_ends_of_an_answer_stay(client: Client, script: fake.Script, end: str) -> None:
    script.generated, script.finish_reason = (" Paris", ".", end), v1.FINISH_REASON_LENGTH
    client.cite(CONTEXT, QUESTION)
    assert explained(script) == f" Paris.{end}"


def test_an_answer_that_ended_by_itself_stays_as_it_is(client: Client, script: fake.Script) -> None:
    script.generated, script.finish_reason = (" Paris.", "\nQuestion"), v1.FINISH_REASON_END_OF_TEXT
    assert client.cite(CONTEXT, QUESTION).complete
    assert explained(script) == " Paris.\nQuestion"


def test_an_answer_has_no_placeholders(client: Client, script: fake.Script) -> None:
    client.cite(CONTEXT, QUESTION)
    [request] = script.requests["Generate"]
    assert isinstance(request, v1.GenerateRequest)
    assert request.no_placeholders


@pytest.mark.parametrize("template", [None, "{context} {question}", "Ask: {question} {context}"])
def test_an_answer_of_nothing_but_a_half_is_said_to_be_cut(
    client: Client, script: fake.Script, template: str | None
) -> None:
    script.generated, script.finish_reason = (REPLACEMENT,), v1.FINISH_REASON_LENGTH
    found = client.cite(CONTEXT, QUESTION, template=template)
    assert (found.answer, found.sentences, found.complete) == ("", (), False)
    assert not script.requests["CreateExplanation"]


def test_a_call_scores_as_many_tokens_as_are_allowed(
    client: Client, script: fake.Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gloss.citing._TOKENS", 40)
    client.cite("A line of words.\n" * 8, QUESTION, answer="Paris.", unit="line")
    scored = [
        [len(item.prompt.token_ids.ids) + len(item.continuation.token_ids.ids) for item in request.items]
        for request in script.requests["Score"]
        if isinstance(request, v1.ScoreRequest)
    ]
    assert len(scored) > 1
    assert all(sum(tokens) <= 40 or len(tokens) == 1 for tokens in scored)


@pytest.mark.parametrize("method", ["integrated-gradients", "attention-rollout", v1.ValueZeroing()])
def test_methods_that_leave_no_source_out_are_refused(client: Client, method: Any) -> None:
    with pytest.raises(ValueError, match="choose from occlusion"):
        client.cite(CONTEXT, QUESTION, method=method)


def test_an_empty_template_is_not_the_default(client: Client) -> None:
    with pytest.raises(ValueError, match="the template must hold"):
        client.cite(CONTEXT, QUESTION, template="")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"context": None}, "a context is a text"),
        ({"context": 5}, "a context is a text"),
        ({"context": b"A text."}, r"not b'A text\.'"),
        ({"context": documents.Document("a", "A text.")}, "a context is a text"),
        ({"question": None}, "the question is a text, not None"),
        ({"question": b"Why?"}, "the question is a text, not b'Why"),
        ({"answer": 5}, "the answer is a text, not 5"),
        ({"template": b"{context} {question}"}, "the template is a text"),
    ],
)
def test_what_is_no_text_is_refused_and_named(client: Client, asked: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        client.cite(**{"context": CONTEXT, "question": QUESTION, **asked})


@pytest.mark.parametrize("unit", ["word", "token", "sentences", "", None])
def test_a_unit_that_is_none_of_a_source_is_refused_before_anything_is_asked(
    client: Client, script: fake.Script, unit: Any
) -> None:
    for ask in (client.cite, client.estimate_citations):
        with pytest.raises(ValueError, match=f"unit: {unit!r} is unknown; choose from sentence, item, line, paragraph"):
            ask(CONTEXT, QUESTION, unit=unit)
    assert not script.requests


@pytest.mark.parametrize("limit", [0, 1, 40])
def test_the_number_of_evaluations_is_sent_as_it_was_given(client: Client, script: fake.Script, limit: int) -> None:
    client.cite(CONTEXT, QUESTION, answer="Paris.", max_evaluations=limit)
    [request] = script.requests["CreateExplanation"]
    assert isinstance(request, v1.CreateExplanationRequest)
    assert request.spec.budget.HasField("max_evaluations")
    assert request.spec.budget.max_evaluations == limit


def test_an_estimate_asks_for_what_a_citation_would_cost(client: Client, script: fake.Script) -> None:
    asked: dict[str, Any] = {"method": "lime", "alpha": 2.0, "unit": "line", "max_evaluations": 50, "seed": 7}
    client.estimate_citations(CONTEXT, QUESTION, answer="Paris.", **asked)
    client.cite(CONTEXT, QUESTION, answer="Paris.", **asked)
    estimated, cited = script.requests["CreateExplanation"]
    assert isinstance(estimated, v1.CreateExplanationRequest)
    assert isinstance(cited, v1.CreateExplanationRequest)
    assert estimated.validate_only
    assert estimated.spec == cited.spec


def test_an_estimate_without_an_answer_counts_the_longest_one(client: Client, script: fake.Script) -> None:
    """Its number of sentences is unknown: gradients were refused where there might be one for each token."""
    estimate = client.estimate_citations(CONTEXT, QUESTION)
    client.estimate_citations(CONTEXT, QUESTION, max_tokens=5)
    longest, five = (each.spec for each in script.requests["CreateExplanation"])
    assert estimate.progress.evaluations_planned
    assert 5 < longest.target.generation.max_tokens <= 128
    assert five.target.generation.max_tokens == 5
    assert not longest.HasField("rows")
    assert not script.requests["Generate"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"method": "value-zeroing"}, "choose from"), ({"answer": " "}, "blank"), ({"template": ""}, "must")],
)
def test_an_estimate_refuses_what_a_citation_refuses(client: Client, asked: dict[str, Any], said: str) -> None:
    for ask in (client.estimate_citations, client.cite):
        with pytest.raises(ValueError, match=said):
            ask(CONTEXT, QUESTION, **asked)
