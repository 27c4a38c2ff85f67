"""The clients against a real server and a real worker."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import grpc
import pytest

from gloss import AsyncClient, Client, GlossError, build, tensors, v1

PROMPT = "The capital of France is"


@pytest.fixture
def client(stack: str) -> Iterator[Client]:
    """A client of the shared stack."""
    with Client(stack) as connected:
        yield connected


def test_next_token_and_score_agree(client: Client) -> None:
    top = client.next_token(PROMPT, top_k=3).predictions[0].top
    scored = client.score_many((PROMPT, [token.id]) for token in top).scores
    for rank, (token, score) in enumerate(zip(top, scored, strict=True), 1):
        assert score.log_probability == pytest.approx(token.log_probability, abs=1e-5)
        assert score.tokens[0].rank == rank


def test_a_batch_of_text_and_ids_agrees(client: Client) -> None:
    ids = [token.id for token in client.tokenize(PROMPT).tokens]
    by_text, by_ids = client.next_token([PROMPT, ids]).predictions
    assert [token.id for token in by_text.top] == [token.id for token in by_ids.top]


def test_attention_unpacks_to_rows_that_sum_to_one(client: Client) -> None:
    reply = client.attention(PROMPT, layers=[1], queries=[-1, 0])
    weights = tensors.unpack(reply.weights)
    assert weights.shape == (1, 4, 2, len(reply.tokens))
    for head in range(4):
        row = [weights[0, head, 0, key] for key in range(len(reply.tokens))]
        assert math.fsum(row) == pytest.approx(1, abs=1e-5)

    halves = client.attention(PROMPT, reduction="head-mean", top_n=3, half=True)
    assert tensors.unpack(halves.weights).shape == (2, 1, 1, 3)
    assert tensors.unpack(halves.keys).tolist()[0][0][0][0] >= 0


def test_generate(client: Client) -> None:
    replies = list(client.generate(PROMPT, max_tokens=5, top_k=2))
    assert len(replies) == 5
    assert replies[0].token.id == client.next_token(PROMPT, top_k=1).predictions[0].top[0].id
    assert [len(reply.top) for reply in replies] == [2] * 5
    assert replies[-1].finish_reason == v1.FINISH_REASON_LENGTH
    assert replies[-1].model.name
    with pytest.raises(GlossError) as caught:
        list(client.generate(PROMPT, top_p=2.0))
    assert caught.value.field == "top_p"


@pytest.mark.parametrize("method", ["occlusion", "lime"])
def test_explain_to_the_end(client: Client, method: str) -> None:
    seen: list[v1.Explanation] = []
    why = client.explain(PROMPT, method, fresh=True, on_progress=seen.append, timeout=60)
    assert why.state == v1.EXPLANATION_STATE_SUCCEEDED
    assert seen[0].name == seen[-1].name == why.name
    assert [part.text for part in why.result.attributions] == PROMPT.split()
    assert why.result.HasField("faithfulness")
    assert why.result.trust.verdict != v1.TRUST_VERDICT_UNSPECIFIED
    assert client.get(why.name) == why


@pytest.mark.parametrize("method", ["kernel-shap", "integrated-gradients"])
def test_rows_of_an_answer(client: Client, method: str) -> None:
    asked = {"generation": 4, "rows": "token", "faithfulness": False}
    ahead = client.estimate(PROMPT, method, **asked).progress.evaluations_planned
    why = client.explain(PROMPT, method, **asked, fresh=True, timeout=60)
    assert [row.text for row in why.result.rows] == [token.text for token in why.result.target.tokens]
    assert sum(row.full_value for row in why.result.rows) == pytest.approx(why.result.full_value, abs=1e-9)
    for index, part in enumerate(why.result.attributions):
        assert sum(row.attributions[index] for row in why.result.rows) == pytest.approx(part.attribution, abs=1e-6)
    assert why.result.cost.evaluations + why.result.cost.cache_hits <= ahead
    alone = client.explain(PROMPT, method, generation=4, faithfulness=False, fresh=True, timeout=60)
    assert (alone.result.cost.evaluations == why.result.cost.evaluations) == (method == "kernel-shap")


def test_the_same_question_again_is_answered_from_the_store(client: Client) -> None:
    first = client.explain(PROMPT, target=" Paris", against=" Rome", features="token", timeout=60)
    again = client.explain(PROMPT, target=" Paris", against=" Rome", features="token", timeout=60)
    assert again.name == first.name
    assert client.explain(PROMPT, target=" Paris", against=" Rome", features="token", fresh=True).name != first.name


def test_a_request_id_makes_creating_safe_to_repeat(client: Client) -> None:
    spec = build.spec(v1.Prompt(text=PROMPT), build.method("occlusion"), budget=v1.Budget(seed=99))
    names = {client.create(spec, request_id="mine-1", fresh=True).name for _ in range(3)}
    assert len(names) == 1


def test_list_cancel_and_delete(client: Client) -> None:
    names = {client.explain(f"{PROMPT} number {number}", wait=False).name for number in range(3)}
    assert names <= {one.name for one in client.list(page_size=2)}
    for name in names:
        client.delete(name)
    assert not names & {one.name for one in client.list()}
    with pytest.raises(GlossError) as caught:
        client.cancel(names.pop())
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "EXPLANATION_NOT_FOUND")


def test_bad_input_names_its_field(client: Client) -> None:
    for call, field in (
        (lambda: client.next_token(""), "prompts[0].text"),
        (lambda: client.next_token(PROMPT, top_k=2**31 - 1), "top_k"),
        (lambda: client.attention(PROMPT, layers=[99]), "layers[0]"),
        (lambda: client.explain(PROMPT, features=[(0, 99)]), "spec.features.spans[0]"),
        (lambda: client.explain(PROMPT, target=""), "spec.target.next_token.text"),
    ):
        with pytest.raises(GlossError) as caught:
            call()
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.field == field


def test_asyncio(stack: str) -> None:
    async def main() -> None:
        async with AsyncClient(stack) as client:
            replies = await asyncio.gather(*(client.next_token(f"{PROMPT} {n}") for n in range(16)))
            assert len({reply.model.digest for reply in replies}) == 1
            why = await client.explain(PROMPT, "lime", timeout=60)
            states = [explanation.state async for explanation in client.watch(why.name)]
            assert states == [v1.EXPLANATION_STATE_SUCCEEDED]

    asyncio.run(main())
