"""InferenceService over real gRPC: the right numbers, together or alone, and order under load."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import grpc
import numpy as np
import pytest
import torch

from gloss import v1 as pb
from gloss.durations import seconds
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from ml import spec
from ml.runtime.preemption import end_if_preempted
from tests.fixtures.runners import PromptRunner
from tests.integration.explanations import wait_for
from tests.integration.serving import Code, Refusal, refused, serve

PROMPTS = [
    "The capital of France is",
    "She sells",
    "To be, or not to be: that is",
    "In 1969 the first man walked on the",
]


def text(prompt: str) -> pb.Prompt:
    return pb.Prompt(text=prompt)


def of_ids(*ids: int) -> pb.Prompt:
    return pb.Prompt(token_ids=pb.TokenIds(ids=ids))


def array(tensor: pb.Tensor) -> np.ndarray:
    kind = {pb.TENSOR_TYPE_FLOAT32: "<f4", pb.TENSOR_TYPE_FLOAT16: "<f2", pb.TENSOR_TYPE_INT32: "<i4"}[tensor.type]
    return np.frombuffer(tensor.data, kind).reshape(tuple(tensor.shape))


# Numbers


def test_next_token_is_the_models_own_softmax(served, load_model, tiny_llama_chat):
    model = load_model(tiny_llama_chat)
    [prediction] = served.next_token(PROMPTS[0], top_k=5, temperature=0.7).predictions
    ids = model.tokenizer.encode(spec.Prompt(text=PROMPTS[0])).ids
    expected = torch.log_softmax(model.logits([ids])[0][-1] / 0.7, dim=-1)
    assert [token.id for token in prediction.top] == expected.topk(5).indices.tolist()
    for token in prediction.top:
        assert token.log_probability == pytest.approx(expected[token.id].item(), abs=1e-4)
        assert token.probability == pytest.approx(math.exp(token.log_probability))
        assert token.text == model.tokenizer.token_text(token.id)
    assert prediction.entropy == pytest.approx(-(expected.exp() * expected).sum().item(), abs=1e-4)
    assert prediction.usage == pb.Usage(prompt_tokens=len(ids), cached_tokens=prediction.usage.cached_tokens)


def test_the_reply_names_the_model_and_its_stages(served, load_model, tiny_llama_chat):
    before = time.perf_counter()
    reply = served.next_token(PROMPTS[0])
    elapsed = time.perf_counter() - before
    assert (reply.model.name, reply.model.digest) == ("tiny-llama-chat", load_model(tiny_llama_chat).info.digest)
    assert len(reply.predictions[0].top) == 10
    spent = {stage.name: seconds(duration) for stage, duration in reply.timings.ListFields()}
    assert spent.keys() == {"queue_duration", "tokenize_duration", "model_duration", "reply_duration"}
    assert spent["model_duration"] > 0
    assert spent["tokenize_duration"] > 0
    assert sum(spent.values()) <= elapsed


@pytest.mark.parametrize("model", ["tiny-llama-chat", "tiny-gpt2", "tiny-lstm"])
def test_a_batch_answers_as_each_prompt_alone(served, model):
    together = served.next_token(*PROMPTS, model=model, top_k=8).predictions
    for prompt, prediction in zip(PROMPTS, together, strict=True):
        [alone] = served.next_token(prompt, model=model, top_k=8).predictions
        assert [token.id for token in prediction.top] == [token.id for token in alone.top]
        for one, other in zip(prediction.top, alone.top, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
        assert prediction.entropy == pytest.approx(alone.entropy, abs=1e-4)


def test_text_ids_and_chat_are_prompts(served, load_model, tiny_llama_chat):
    ids = load_model(tiny_llama_chat).tokenizer.encode(spec.Prompt(text=PROMPTS[0])).ids
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello")])
    prompts = [text(PROMPTS[0]), pb.Prompt(token_ids=pb.TokenIds(ids=ids)), pb.Prompt(chat=chat)]
    by_text, by_ids, by_chat = served.inference.NextToken(pb.NextTokenRequest(prompts=prompts)).predictions
    assert by_text.top[0].id == by_ids.top[0].id
    assert by_chat.usage.prompt_tokens > 0


def test_score_sums_to_the_continuations_log_probability(served, load_model, tiny_gpt2):
    model = load_model(tiny_gpt2)
    items = [
        pb.ScoreItem(prompt=text("The capital of"), continuation=pb.Continuation(text=" France is Paris")),
        pb.ScoreItem(prompt=text("She sells"), continuation=pb.Continuation(token_ids=pb.TokenIds(ids=[5, 7]))),
    ]
    reply = served.inference.Score(pb.ScoreRequest(model="tiny-gpt2", items=items))
    first, second = reply.scores
    assert "".join(token.text for token in first.tokens) == " France is Paris"
    assert [token.id for token in second.tokens] == [5, 7]
    for item, score in zip(items, reply.scores, strict=True):
        prompt = model.tokenizer.encode(spec.Prompt(text=item.prompt.text)).ids
        ids = [token.id for token in score.tokens]
        rows = torch.log_softmax(model.logits([[*prompt, *ids]], [len(ids) + 1])[0], dim=-1)
        for row, token in zip(rows, score.tokens, strict=False):
            assert token.log_probability == pytest.approx(row[token.id].item(), abs=1e-4)
            assert token.rank == 1 + int((row > row[token.id]).sum())
        assert score.log_probability == pytest.approx(sum(token.log_probability for token in score.tokens))


@pytest.mark.parametrize("model", ["tiny-llama-chat", "tiny-gpt2", "tiny-lstm"])
def test_score_lists_what_next_token_would_at_each_position(served, model):
    prompt, ids = (5, 9, 7), (8, 6, 5)
    item = pb.ScoreItem(prompt=of_ids(*prompt), continuation=pb.Continuation(token_ids=pb.TokenIds(ids=ids)))
    [plain] = served.inference.Score(pb.ScoreRequest(model=model, items=[item])).scores
    [score] = served.inference.Score(pb.ScoreRequest(model=model, items=[item], top_k=4)).scores
    assert not any(token.top or token.HasField("entropy") for token in plain.tokens)
    for position, (token, other) in enumerate(zip(score.tokens, plain.tokens, strict=True)):
        asked = pb.NextTokenRequest(model=model, prompts=[of_ids(*prompt, *ids[:position])], top_k=4)
        [expected] = served.inference.NextToken(asked).predictions
        assert [one.id for one in token.top] == [one.id for one in expected.top]
        for one, same in zip(token.top, expected.top, strict=True):
            assert (one.text, one.bytes) == (same.text, same.bytes)
            assert one.log_probability == pytest.approx(same.log_probability, abs=1e-4)
        assert token.entropy == pytest.approx(expected.entropy, abs=1e-4)
        assert (token.log_probability, token.rank) == (pytest.approx(other.log_probability, abs=1e-4), other.rank)


def test_a_continuation_of_the_prompts_last_word_is_scored_from_its_token_on(served):
    borders = [("The capital of", " France"), ("The capital o", "f France"), ("The capital of ", "France")]
    items = [
        pb.ScoreItem(prompt=text(prompt), continuation=pb.Continuation(text=continuation))
        for prompt, continuation in borders
    ]
    scores = served.inference.Score(pb.ScoreRequest(items=items)).scores
    assert ["".join(token.text for token in score.tokens) for score in scores] == [" France", " of France", " France"]
    assert [(score.tokenized_apart, score.overlap) for score in scores] == [(False, ""), (True, " o"), (True, " ")]
    assert scores[2].log_probability == pytest.approx(scores[0].log_probability, abs=1e-5)
    assert scores[1].usage.prompt_tokens == scores[0].usage.prompt_tokens - 1


def test_a_start_token_that_a_text_spells_out_is_read_once(served):
    def tokenized(value):
        return served.inference.Tokenize(pb.TokenizeRequest(prompt=text(value)))

    plain = tokenized("The capital of")
    assert plain.has_start_token
    start = plain.tokens[0]
    spelled = tokenized(f"{start.text}The capital of")
    assert [token.id for token in spelled.tokens] == [token.id for token in plain.tokens]
    assert spelled.has_start_token
    assert (start.HasField("span"), spelled.tokens[0].span) == (False, pb.CharacterSpan(start=0, end=len(start.text)))


def test_attention_rows_are_distributions(served):
    request = pb.AttentionRequest(prompt=text(PROMPTS[0]), layers=[1, 0], heads=[2], queries=[-1, 0])
    reply = served.inference.Attention(request)
    weights = array(reply.weights)
    tokens = len(reply.tokens)
    assert weights.shape == (2, 1, 2, tokens)
    assert (list(reply.layers), list(reply.heads), list(reply.queries)) == ([1, 0], [2], [tokens - 1, 0])
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(weights[:, :, 1, 1:], 0)  # The first token sees itself only.
    assert seconds(reply.timings.model_duration) > 0
    assert reply.usage == pb.Usage(prompt_tokens=tokens)


def test_attention_reduced_and_cut_is_the_dense_one(served):
    def ask(**fields):
        return served.inference.Attention(pb.AttentionRequest(prompt=text(PROMPTS[0]), **fields))

    dense = array(ask().weights)
    mean = ask(reduction=pb.ATTENTION_REDUCTION_HEAD_MEAN)
    np.testing.assert_allclose(array(mean.weights)[:, 0], dense.mean(1), atol=1e-6)
    assert list(mean.heads) == []
    top = ask(top_n=3)
    np.testing.assert_allclose(np.take_along_axis(dense, array(top.keys), -1), array(top.weights), atol=1e-6)
    np.testing.assert_allclose(array(top.weights), -np.sort(-dense, -1)[..., :3], atol=1e-6)
    half = ask(type=pb.TENSOR_TYPE_FLOAT16)
    assert half.weights.type == pb.TENSOR_TYPE_FLOAT16
    np.testing.assert_allclose(array(half.weights), dense, atol=1e-3)
    rollout = ask(reduction=pb.ATTENTION_REDUCTION_ROLLOUT)
    np.testing.assert_allclose(array(rollout.weights).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("model", ["tiny-llama-chat", "tiny-gpt2"])
def test_the_bytes_of_tokens_make_the_text(served, model):
    written = "Naïve café 😀 in Zürich"
    tokens = served.inference.Tokenize(pb.TokenizeRequest(model=model, prompt=text(written))).tokens
    assert b"".join(token.bytes for token in tokens if token.HasField("span")).decode() == written
    item = pb.ScoreItem(prompt=text("Naïve café"), continuation=pb.Continuation(text=" 😀"))
    [score] = served.inference.Score(pb.ScoreRequest(model=model, items=[item])).scores
    assert b"".join(token.bytes for token in score.tokens).decode() == " 😀"
    request = pb.GenerateRequest(model=model, prompt=text(written), max_tokens=20, temperature=1, seed=3)
    replies = list(served.inference.Generate(request))
    said = b"".join(reply.token.bytes for reply in replies).decode(errors="replace")
    assert "".join(reply.text for reply in replies) == said


@pytest.mark.parametrize("model", ["tiny-llama-chat", "tiny-gpt2", "tiny-lstm"])
def test_every_reply_says_its_usage(served, model):
    prompts = [tuple(range(100, 180)), (5, 6, 7)]  # a long one, which a prefix cache keeps, and a short one
    caches = model != "tiny-lstm"

    def usages(one: int) -> list[pb.Usage]:
        ask = pb.NextTokenRequest(model=model, prompts=[of_ids(*ids, one) for ids in prompts])
        reply = served.inference.NextToken(ask)
        each = [prediction.usage for prediction in reply.predictions]
        assert reply.usage.prompt_tokens == sum(usage.prompt_tokens for usage in each)
        assert reply.usage.cached_tokens == sum(usage.cached_tokens for usage in each)
        return each

    first, second = usages(8), usages(9)
    assert [usage.prompt_tokens for usage in (*first, *second)] == [81, 4] * 2
    assert second[0].cached_tokens == (64 if caches else 0)
    assert second[1].cached_tokens == 0

    continuation = pb.Continuation(token_ids=pb.TokenIds(ids=[5, 6, 7]))
    items = [pb.ScoreItem(prompt=of_ids(*ids), continuation=continuation) for ids in prompts]
    scores = served.inference.Score(pb.ScoreRequest(model=model, items=items))
    cached = scores.scores[0].usage.cached_tokens
    assert cached == (64 if caches else 0)
    assert scores.scores[0].usage == pb.Usage(prompt_tokens=80, cached_tokens=cached, completion_tokens=3)
    assert scores.usage == pb.Usage(prompt_tokens=83, cached_tokens=cached, completion_tokens=6)

    replies = list(served.inference.Generate(pb.GenerateRequest(model=model, prompt=of_ids(*prompts[0]), max_tokens=4)))
    assert not any(reply.HasField("usage") for reply in replies[:-1])
    assert replies[-1].usage == pb.Usage(prompt_tokens=80, cached_tokens=cached, completion_tokens=len(replies))


def test_tokenize_points_into_the_text(served):
    reply = served.inference.Tokenize(pb.TokenizeRequest(prompt=text("Naïve café 😀 in Zürich")))
    assert reply.text == "Naïve café 😀 in Zürich"
    for token in [token for token in reply.tokens if token.HasField("span")]:
        shown = reply.text[token.span.start : token.span.end]
        assert token.text == shown or "\N{REPLACEMENT CHARACTER}" in token.text
    assert reply.context_length == 128


def test_list_models(served):
    models = served.inference.ListModels(pb.ListModelsRequest()).models
    assert [model.version.name for model in models] == ["tiny-llama-chat", "tiny-gpt2", "tiny-lstm"]
    assert [model.is_default for model in models] == [True, False, False]
    assert [model.has_attention for model in models] == [True, True, False]
    assert [model.has_chat_template for model in models] == [True, False, False]
    llama = models[0]
    assert (llama.layer_count, llama.head_count, llama.context_length, llama.device) == (2, 4, 128, "cpu")
    assert llama.parameter_count > 0
    assert [model.mask_token for model in models] == ["<unk>", "", "<unk>"]
    assert [model.HasField("mask_token") for model in models] == [True, False, True]
    found = {each.name: each.HasField("max_tokens") for each in llama.capabilities}
    assert found.items() >= {"ragged batches": False, "prefix cache and batched decoding": False}.items()
    assert not models[2].capabilities


def test_what_a_model_cannot_do_is_a_failed_precondition(served):
    no_attention = refused(served.inference.Attention, pb.AttentionRequest(model="tiny-lstm", prompt=text("It")))
    assert (no_attention.code, no_attention.reason) == (Code.FAILED_PRECONDITION, "NO_ATTENTION")
    chat = pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello")]))
    no_chat = refused(served.inference.Tokenize, pb.TokenizeRequest(model="tiny-gpt2", prompt=chat))
    assert (no_chat.code, no_chat.reason) == (Code.FAILED_PRECONDITION, "NO_CHAT_TEMPLATE")


# Order under load


def hold(gate, server):
    """Occupy the model until the gate opens; the call that does it."""
    gate.open.clear()
    while gate.entered.acquire(blocking=False):
        pass
    call = server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text("It was")]))
    assert gate.entered.acquire(timeout=20)
    return call


def waiting(server):
    return server.metric("gloss_inference_queue_depth")


def test_calls_that_come_together_run_together(gate, gated):
    with gated() as server:
        first = hold(gate, server)
        calls = [server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text(p)])) for p in PROMPTS * 2]
        wait_for(lambda: waiting(server) == 8)
        gate.open.set()
        for call in [first, *calls]:
            assert call.result(20).predictions
        assert gate.batches[-1] == 8


def test_overload_is_refused_at_once_with_a_time_to_return(gate, gated):
    with gated(max_waiting_prompts=2) as server:
        first = hold(gate, server)
        queued = server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text("a"), text("b")]))
        wait_for(lambda: waiting(server) == 2)
        before = time.perf_counter()
        refusal = refused(server.inference.NextToken, pb.NextTokenRequest(prompts=[text("c")]))
        assert time.perf_counter() - before < 1
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refusal.retry_seconds > 0
        gate.open.set()
        assert first.result(20).predictions
        assert queued.result(20).predictions


def test_a_caller_that_leaves_frees_its_place(gate, gated):
    with gated() as server:
        first = hold(gate, server)
        leaving = server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text("a")] * 5))
        staying = server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text("b")]))
        wait_for(lambda: waiting(server) == 6)
        leaving.cancel()
        wait_for(lambda: waiting(server) == 1)
        gate.open.set()
        first.result(20)
        staying.result(20)
        assert gate.batches[-1] == 1
        labels = {"grpc_type": "unary", "grpc_service": "gloss.v1.InferenceService", "grpc_method": "NextToken"}
        wait_for(lambda: server.metric("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1)


def test_a_deadline_ends_a_call_that_waits(gate, gated):
    with gated() as server:
        first = hold(gate, server)
        with pytest.raises(grpc.RpcError) as caught:
            server.next_token("a", timeout=0.2)
        assert caught.value.code() is Code.DEADLINE_EXCEEDED
        wait_for(lambda: waiting(server) == 0)
        gate.open.set()
        first.result(20)
        assert gate.batches[-1] == 1


def test_many_callers_at_once_all_get_their_own_answer(served):
    expected = {prompt: served.next_token(prompt).predictions[0].top[0].id for prompt in PROMPTS}
    start = threading.Barrier(8)

    def ask(worker: int) -> list[tuple[str, int]]:
        start.wait()
        prompts = [PROMPTS[(worker + step) % len(PROMPTS)] for step in range(10)]
        return [(prompt, served.next_token(prompt).predictions[0].top[0].id) for prompt in prompts]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(ask, range(8)):
            assert all(expected[prompt] == found for prompt, found in answers)


def test_a_failure_inside_stays_inside(gate, gated, monkeypatch, caplog):
    with gated() as server:
        monkeypatch.setattr("server.services.wire.version", lambda _: 1 / 0)
        with pytest.raises(grpc.RpcError) as caught:
            server.next_token("a")
        refusal = Refusal(caught.value)
        assert (refusal.code, refusal.reason) == (Code.INTERNAL, "INTERNAL")
        assert "division" not in refusal.message
        assert refusal.metadata["incident"] in caplog.text


# The end


def test_draining_finishes_what_was_accepted_and_refuses_the_rest(gate, gated):
    with gated() as server:
        first = hold(gate, server)
        stopping = threading.Thread(target=lambda: server.on_loop(server.server.stop()))
        stopping.start()
        wait_for(lambda: server.server.drain.begun)
        assert server.health("gloss.v1.InferenceService") == "NOT_SERVING"
        refusal = refused(server.inference.NextToken, pb.NextTokenRequest(prompts=[text("late")]))
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "DRAINING")
        assert refusal.retry_seconds is not None
        gate.open.set()
        assert first.result(20).predictions
        stopping.join(20)
        assert not stopping.is_alive()


def test_what_is_cut_when_the_grace_ends_may_be_tried_again(gate, gated):
    with gated(grace_seconds=0.2) as server:
        first = hold(gate, server)
        stream = server.inference.Generate(pb.GenerateRequest(prompt=text("waits"), max_tokens=5), timeout=20)
        wait_for(lambda: len(server.server.drain._active) == 2)
        server.on_loop(server.server.stop())
        with pytest.raises(grpc.RpcError) as generating:
            list(stream)
        for failed in (first.exception(20), generating.value):
            refusal = Refusal(failed)
            assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "DRAINING")
            assert refusal.retry_seconds is not None
        gate.open.set()


def test_who_asks_without_a_pause_until_the_end_is_told_unavailable(gate, gated):
    """Never CANCELLED, which clients do not retry; not those either whose call was cut."""
    ended = threading.Event()

    def insist(address: str, connection: int) -> Counter[grpc.StatusCode]:
        codes = Counter()
        with grpc.insecure_channel(address, [("gloss.connection", connection)]) as channel:
            stub = InferenceServiceStub(channel)
            while not ended.is_set():
                with pytest.raises(grpc.RpcError) as caught:
                    stub.NextToken(pb.NextTokenRequest(prompts=[text("waits")]), timeout=20)
                codes[caught.value.code()] += 1
        return codes

    with gated(grace_seconds=0.1) as server, ThreadPoolExecutor(8) as clients:
        gate.open.clear()
        address = f"127.0.0.1:{server.server.port}"
        calls = [clients.submit(insist, address, connection) for connection in range(8)]
        wait_for(lambda: len(server.server.drain._active) == 8)
        server.on_loop(server.server.stop())
        ended.set()
        codes = sum((call.result(20) for call in calls), Counter())
        assert set(codes) == {Code.UNAVAILABLE}, codes
        gate.open.set()


def test_a_cached_prefix_is_not_computed_again_and_answers_the_same(tiny_gpt2):
    shared = list(range(100, 180))
    prompts = [[*shared, 200 + n, 7] for n in range(3)]

    def ask(server, ids):
        request = pb.NextTokenRequest(prompts=[pb.Prompt(token_ids=pb.TokenIds(ids=ids))])
        return server.inference.NextToken(request, timeout=20).predictions[0]

    with serve([tiny_gpt2]) as on, serve([tiny_gpt2], prefix_cache_bytes=0) as off:
        for ids in prompts:
            one, other = ask(on, ids), ask(off, ids)
            assert [token.id for token in one.top] == [token.id for token in other.top]
            for token, same in zip(one.top, other.top, strict=True):
                assert token.log_probability == pytest.approx(same.log_probability, abs=1e-4)
        model = {"model": "tiny-gpt2"}
        wait_for(lambda: on.metric("gloss_prefix_cache_tokens_total", **model) == 2 * 64)
        assert on.metric("gloss_prefix_cache_lookups_total", **model, outcome="hit") == 2
        assert on.metric("gloss_prefix_cache_bytes", **model) > 0
        assert off.metric("gloss_prefix_cache_tokens_total", **model) == 0
        assert off.metric("gloss_prefix_cache_bytes", **model) == 0


def test_attention_that_is_asked_of_two_models_at_once_is_each_models_own(gate, tiny_gpt2, tiny_llama, caplog):
    def attention(server, model):
        return server.inference.Attention.future(
            pb.AttentionRequest(model=model, prompt=of_ids(1, 2, 3), layers=[0, 1]), timeout=20
        )

    models = ["tiny-gpt2", "tiny-llama"]
    with serve([tiny_gpt2, tiny_llama]) as server:
        alone = [array(attention(server, model).result(20).weights) for model in models]
        first = hold(gate, server)
        calls = [attention(server, model) for model in models * 2]
        wait_for(lambda: waiting(server) == len(calls))
        gate.open.set()
        assert first.result(20).predictions
        for call, expected in zip(calls, alone * 2, strict=True):
            assert np.array_equal(array(call.result(20).weights), expected)
    assert not np.allclose(*alone)
    assert "failed" not in caplog.text


def test_calls_that_would_wait_too_long_are_refused(gate, gated):
    with gated(max_waiting_seconds=0.5) as server:
        first = hold(gate, server)  # and with it the thread that would note the throughput of the warm-up only now
        server.server.engine._queue._throughputs["tiny-gpt2"].note(10, 1.0)  # ten tokens a second
        queued = server.inference.NextToken.future(pb.NextTokenRequest(prompts=[text("one two three four five")]))
        wait_for(lambda: waiting(server) == 1)
        refusal = refused(server.inference.NextToken, pb.NextTokenRequest(prompts=[text("c")]))
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        gate.open.set()
        assert first.result(20).predictions
        assert queued.result(20).predictions


def test_a_model_that_is_asked_too_much_keeps_no_call_of_another_out(gate, tiny_gpt2, tiny_llama):
    def ask(server, model, prompts=1):
        request = pb.NextTokenRequest(model=model, prompts=[text("one two three four five")] * prompts)
        return server.inference.NextToken.future(request, timeout=20)

    with serve([tiny_gpt2, tiny_llama], max_waiting_seconds=0.5) as server:
        calls = [hold(gate, server)]
        for model, tokens_per_second in (("tiny-gpt2", 10), ("tiny-llama", 10_000)):
            server.server.engine._queue._throughputs[model].note(tokens_per_second, 1.0)
        calls.append(ask(server, "tiny-gpt2"))
        wait_for(lambda: waiting(server) == 1)
        for prompts in (1, 8):
            refusal = Refusal(ask(server, "tiny-gpt2", prompts).exception(20))
            assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        calls.append(ask(server, "tiny-llama", 8))
        wait_for(lambda: waiting(server) == 9)
        gate.open.set()
        for call in calls:
            assert call.result(20).predictions


def test_a_call_of_many_prompts_does_not_wait_for_many_turns_of_a_slow_model(gate, monkeypatch, tiny_gpt2, tiny_llama):
    monkeypatch.setattr("tests.integration.serving.PromptRunner", partial(PromptRunner, pads=False))
    prompt = of_ids(*range(2, 50))
    with ExitStack() as stack:
        server = stack.enter_context(serve([tiny_gpt2, tiny_llama], max_waiting_seconds=60))
        address = f"127.0.0.1:{server.server.port}"

        def connect():
            channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
            return InferenceServiceStub(stack.enter_context(channel))

        calls = [hold(gate, server)]
        for model, tokens_per_second in (("tiny-gpt2", 100), ("tiny-llama", 10_000)):
            server.server.engine._queue._throughputs[model].note(tokens_per_second, 1.0)
        for greedy in [connect() for _ in range(4)]:
            slow = pb.NextTokenRequest(model="tiny-gpt2", prompts=[prompt])
            calls += [greedy.NextToken.future(slow, timeout=20) for _ in range(3)]
        wait_for(lambda: waiting(server) == 12)
        eight = pb.NextTokenRequest(model="tiny-llama", prompts=[prompt] * 8)
        calls.append(connect().NextToken.future(eight, timeout=20))
        wait_for(lambda: waiting(server) == 20)
        ran = len(gate.models)
        gate.open.set()
        for call in calls:
            assert call.result(20).predictions
        assert (gate.models[ran], gate.batches[ran]) == ("tiny-llama", 8), "before all that came earlier, as a whole"
        assert "tiny-llama" not in gate.models[ran + 1 :]


def test_a_greedy_step_ends_early_for_a_call_of_another_model(tiny_gpt2, tiny_llama, monkeypatch, request):
    held, ended = threading.Event(), threading.Event()
    request.addfinalizer(ended.set)  # where nothing ends the step

    def hold_once():
        """In place of a look whether the step is preempted: the first one holds the step up until it is."""
        if held.is_set():
            return
        held.set()
        try:
            while not ended.wait(0.001):
                end_if_preempted()
        finally:
            ended.set()

    monkeypatch.setattr("server.interpreter._REFUSED_SECONDS", 60)  # so that none is forgotten
    with serve([tiny_gpt2, tiny_llama], max_waiting_prompts=4) as server:
        monkeypatch.setattr("ml.runtime.last_layer.end_if_preempted", hold_once)
        greedy = server.inference
        assert refused(greedy.NextToken, pb.NextTokenRequest(prompts=[text("too many")] * 5)).reason == "QUEUE_FULL"
        call = greedy.NextToken.future(pb.NextTokenRequest(prompts=[text("It was")]), timeout=20)
        assert held.wait(20)
        with grpc.insecure_channel(f"127.0.0.1:{server.server.port}", [("gloss.connection", 1)]) as channel:
            modest = pb.NextTokenRequest(model="tiny-llama", prompts=[text("It was")])
            assert InferenceServiceStub(channel).NextToken(modest, timeout=20).predictions
        assert ended.is_set()
        assert call.result(20).predictions
        assert server.metric("gloss_batches_preempted_total", model="tiny-gpt2") == 1
