"""Bad input is refused with the field that is to blame, crashes nothing, and queues nothing."""

from __future__ import annotations

import grpc
import pytest

from gloss import v1 as pb
from tests.integration.explanations import wait_for
from tests.integration.serving import Code, refused

TEXT = "The capital of France is Paris."
GOOD = pb.Prompt(text=TEXT)
INT_MAX = 2**31 - 1


def ids(*numbers: int) -> pb.Prompt:
    return pb.Prompt(token_ids=pb.TokenIds(ids=numbers))


def continuation(text: str) -> pb.Continuation:
    return pb.Continuation(text=text)


PROMPTS = [
    pytest.param(pb.Prompt(), "prompt", id="nothing"),
    pytest.param(pb.Prompt(text=""), "prompt.text", id="empty"),
    pytest.param(pb.Prompt(text=" \n\t"), "prompt.text", id="blank"),
    pytest.param(pb.Prompt(text="a\0b"), "prompt.text", id="NUL"),
    pytest.param(ids(), "prompt.token_ids.ids", id="no ids"),
    pytest.param(ids(1, -1), "prompt.token_ids.ids[1]", id="negative id"),
    pytest.param(ids(1, 2, INT_MAX), "prompt.token_ids.ids[2]", id="id beyond the vocabulary"),
    pytest.param(pb.Prompt(chat=pb.Chat()), "prompt.chat.messages", id="no messages"),
    pytest.param(
        pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="a\0b")])),
        "prompt.chat.messages[0].content",
        id="NUL in a message",
    ),
    pytest.param(
        pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="robot", content="hello")])),
        "prompt.chat.messages",
        id="role that the template refuses",
    ),
]


@pytest.mark.parametrize(("prompt", "field"), PROMPTS)
def test_a_bad_prompt_is_named_in_every_method(served, prompt, field):
    inference = served.inference
    requests = [
        (inference.NextToken, pb.NextTokenRequest(prompts=[GOOD, prompt]), field.replace("prompt", "prompts[1]", 1)),
        (
            inference.Score,
            pb.ScoreRequest(items=[pb.ScoreItem(prompt=prompt, continuation=continuation(" Rome"))]),
            f"items[0].{field}",
        ),
        (inference.Attention, pb.AttentionRequest(prompt=prompt), field),
        (inference.Tokenize, pb.TokenizeRequest(prompt=prompt), field),
        (
            served.explanations.CreateExplanation,
            pb.CreateExplanationRequest(spec=pb.ExplanationSpec(prompt=prompt, lime=pb.Lime())),
            f"spec.{field}",
        ),
    ]
    for method, request, path in requests:
        refusal = refused(method, request)
        assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", path)
        assert refusal.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], top_k=0), "top_k", id="top_k 0"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], top_k=-1), "top_k", id="top_k -1"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], top_k=INT_MAX), "top_k", id="top_k 2^31-1"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], temperature=0), "temperature", id="temperature 0"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], temperature=-1), "temperature", id="temperature -1"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], temperature=float("nan")), "temperature", id="NaN"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD], temperature=float("inf")), "temperature", id="inf"),
        pytest.param(pb.NextTokenRequest(), "prompts", id="no prompts"),
        pytest.param(pb.NextTokenRequest(prompts=[GOOD] * 257), "prompts", id="too many prompts"),
    ],
)
def test_bad_next_token(served, request_, field):
    refusal = refused(served.inference.NextToken, request_)
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", field)


@pytest.mark.parametrize("top_k", [-1, 401, INT_MAX])
def test_bad_alternatives(served, top_k):
    item = pb.ScoreItem(prompt=GOOD, continuation=continuation(" a"))
    for method, request in [
        (served.inference.Score, pb.ScoreRequest(items=[item], top_k=top_k)),
        (served.inference.Generate, pb.GenerateRequest(prompt=GOOD, top_k=top_k)),
    ]:
        refusal = refused(method, request)
        assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", "top_k")


@pytest.mark.parametrize(
    ("items", "field"),
    [
        pytest.param([], "items", id="no items"),
        pytest.param([pb.ScoreItem(prompt=GOOD)], "items[0].continuation", id="no continuation"),
        pytest.param(
            [
                pb.ScoreItem(prompt=GOOD, continuation=continuation(" a")),
                pb.ScoreItem(prompt=GOOD, continuation=continuation("")),
            ],
            "items[1].continuation.text",
            id="empty continuation",
        ),
        pytest.param(
            [pb.ScoreItem(prompt=GOOD, continuation=pb.Continuation(token_ids=pb.TokenIds(ids=[-5])))],
            "items[0].continuation.token_ids.ids[0]",
            id="negative id",
        ),
    ],
)
def test_bad_score(served, items, field):
    refusal = refused(served.inference.Score, pb.ScoreRequest(items=items))
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({"layers": [0, 99]}, "layers[1]", id="layer out of range"),
        pytest.param({"layers": [-1]}, "layers[0]", id="negative layer"),
        pytest.param({"layers": [0, 0]}, "layers[1]", id="layer twice"),
        pytest.param({"heads": [4]}, "heads[0]", id="head out of range"),
        pytest.param({"queries": [1000]}, "queries[0]", id="query out of range"),
        pytest.param({"queries": [-1000]}, "queries[0]", id="query before the prompt"),
        pytest.param({"top_n": 0}, "top_n", id="top_n 0"),
        pytest.param({"heads": [0], "reduction": pb.ATTENTION_REDUCTION_ROLLOUT}, "heads", id="rollout of a head"),
        pytest.param({"reduction": 77}, "reduction", id="unknown reduction"),
        pytest.param({"type": pb.TENSOR_TYPE_INT32}, "type", id="integers"),
    ],
)
def test_bad_attention(served, fields, field):
    refusal = refused(served.inference.Attention, pb.AttentionRequest(prompt=GOOD, **fields))
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", field)


def test_a_prompt_beyond_the_context_says_its_length_and_the_limit(served, load_model, tiny_llama_chat):
    long = "The capital of France is Paris. " * 100
    refusal = refused(served.inference.NextToken, pb.NextTokenRequest(prompts=[pb.Prompt(text=long)]))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "PROMPT_TOO_LONG")
    assert refusal.field == "prompts[0].text"
    tokens = len(load_model(tiny_llama_chat).tokenizer._raw(long, special=True).ids)
    assert refusal.metadata == {"tokens": str(tokens), "limit": "128"}
    assert str(tokens) in refusal.message
    assert "128" in refusal.message


def test_a_continuation_beyond_the_context_is_refused(served):
    item = pb.ScoreItem(prompt=GOOD, continuation=pb.Continuation(token_ids=pb.TokenIds(ids=[5] * 128)))
    refusal = refused(served.inference.Score, pb.ScoreRequest(items=[item]))
    assert (refusal.reason, refusal.field) == ("PROMPT_TOO_LONG", "items[0].continuation")
    assert "the continuation has 128 tokens" in refusal.message


def test_tokens_to_generate_beyond_the_context_are_what_is_too_many(served):
    request = pb.GenerateRequest(prompt=GOOD, max_tokens=10**9)
    refusal = refused(served.inference.Generate, request)
    assert (refusal.reason, refusal.field) == ("PROMPT_TOO_LONG", "max_tokens")
    assert "not 1000000000" in refusal.message


def test_an_unknown_model_is_told_which_there_are(served):
    for method, request in [
        (served.inference.NextToken, pb.NextTokenRequest(model="gpt-17", prompts=[GOOD])),
        (served.inference.Score, pb.ScoreRequest(model="gpt-17")),
        (served.inference.Attention, pb.AttentionRequest(model="gpt-17", prompt=GOOD)),
        (served.inference.Tokenize, pb.TokenizeRequest(model="gpt-17", prompt=GOOD)),
        (
            served.explanations.CreateExplanation,
            pb.CreateExplanationRequest(spec=pb.ExplanationSpec(model="gpt-17", prompt=GOOD, lime=pb.Lime())),
        ),
    ]:
        refusal = refused(method, request)
        assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "MODEL_NOT_FOUND")
        assert refusal.metadata == {"model": "gpt-17", "available": "tiny-llama-chat,tiny-gpt2,tiny-lstm"}


# Replies that would not fit


def scored(tokens: int) -> pb.ScoreItem:
    """A continuation of so many tokens."""
    return pb.ScoreItem(prompt=GOOD, continuation=pb.Continuation(token_ids=pb.TokenIds(ids=[7] * tokens)))


def test_a_reply_that_would_not_fit_is_refused_before_the_model_runs(gate, gated):
    with gated(max_message_bytes=16 * 1024) as server:
        runs = len(gate.batches)
        prompt = pb.Prompt(token_ids=pb.TokenIds(ids=[7] * 100))
        attention = pb.AttentionRequest(prompt=prompt, queries=list(range(100)))
        for method, request, field in [
            (server.inference.Attention, attention, "layers"),
            (server.inference.NextToken, pb.NextTokenRequest(prompts=[GOOD] * 200, top_k=100), "top_k"),
            (server.inference.Score, pb.ScoreRequest(items=[scored(20)], top_k=100), "top_k"),
            (server.inference.Score, pb.ScoreRequest(items=[scored(100)] * 8), "items"),
        ]:
            refusal = refused(method, request)
            assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "REPLY_TOO_LARGE")
            assert refusal.field == field
            assert int(refusal.metadata["bytes"]) > int(refusal.metadata["limit"]) == 16 * 1024
            assert refusal.metadata["bytes"] in refusal.message
        assert len(gate.batches) == runs
        assert server.inference.Attention(pb.AttentionRequest(prompt=prompt, layers=[0], heads=[0])).weights.data


def test_a_request_beyond_the_limit_is_refused_by_grpc_itself(served):
    with pytest.raises(grpc.RpcError) as caught:
        served.next_token("a" * (5 * 1024 * 1024))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert served.next_token("The server lives on").predictions


class Raw:
    """Bytes as they are, in a message's place."""

    DESCRIPTOR = None


def raw(channel, path, kind, **metadata):
    """A call that sends bytes and whose reply nobody parses."""
    call = channel.unary_unary if kind == "unary" else channel.unary_stream
    method = call(path, response_deserializer=lambda _: Raw())
    return lambda request, timeout: method(request, timeout=timeout, **metadata)


GARBAGE = [b"\xff\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xc3\x28", b"\x08" * 7]
"""No field, a length beyond the end, a string that is not UTF-8, and numbers without a last one."""


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("/gloss.v1.InferenceService/NextToken", "unary", "gloss.v1.NextTokenRequest"),
        ("/gloss.v1.InferenceService/Generate", "server_stream", "gloss.v1.GenerateRequest"),
        ("/gloss.v1.ExplanationService/CreateExplanation", "unary", "gloss.v1.CreateExplanationRequest"),
        ("/gloss.v1.ExplanationService/WatchExplanation", "server_stream", "gloss.v1.WatchExplanationRequest"),
        ("/grpc.health.v1.Health/Check", "unary", "grpc.health.v1.HealthCheckRequest"),
        ("/grpc.health.v1.Health/Watch", "server_stream", "grpc.health.v1.HealthCheckRequest"),
        (
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "bidi_stream",
            "grpc.reflection.v1alpha.ServerReflectionRequest",
        ),
    ],
)
def test_bytes_that_are_no_message_are_refused_and_counted(served, caplog, path, kind, message):
    _, service, method = path.split("/")
    labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method, "grpc_code": "InvalidArgument"}
    before = served.metric("grpc_server_handled_total", **labels)
    for data in GARBAGE:
        refusal = refused(raw(served.channel, path, kind), data)
        assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "MALFORMED_REQUEST")
        assert message in refusal.message
        assert refusal.metadata == {"type": message}
    wait_for(lambda: served.metric("grpc_server_handled_total", **labels) - before == len(GARBAGE))
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]
    assert served.next_token("The server lives on").predictions


def test_malformed_requests_are_one_line_of_the_log_a_second(gated, caplog):
    with gated() as server:
        for _ in range(20):
            refused(raw(server.channel, "/gloss.v1.InferenceService/Tokenize", "unary"), GARBAGE[0])
        lines = [record.getMessage() for record in caplog.records if "malformed" in record.getMessage()]
    assert 1 <= len(lines) < 20
    assert lines[0].startswith(
        "refused malformed requests: 1, the last of /gloss.v1.InferenceService/Tokenize from ipv"
    )


@pytest.mark.parametrize("path", ["/gloss.v1.InferenceService/NoSuchMethod", "/no.such.Service/Method"])
def test_methods_that_there_are_not_are_counted_as_one(served, path):
    labels = {"grpc_type": "unknown", "grpc_service": "unknown", "grpc_method": "unknown", "grpc_code": "Unimplemented"}
    before = served.metric("grpc_server_handled_total", **labels)
    with pytest.raises(grpc.RpcError) as caught:
        served.channel.unary_unary(path)(b"", timeout=5)
    assert caught.value.code() is Code.UNIMPLEMENTED
    assert served.metric("grpc_server_handled_total", **labels) - before == 1


# Explanations. The server of these tests has no Redis: what is refused here is refused before anything is queued.


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({}, "spec.method", id="no method"),
        pytest.param({"occlusion": pb.Occlusion(window=0)}, "spec.occlusion.window", id="window 0"),
        pytest.param({"occlusion": pb.Occlusion(window=1, stride=2)}, "spec.occlusion.stride", id="stride"),
        pytest.param({"lime": pb.Lime(kernel_width=0)}, "spec.lime.kernel_width", id="kernel width 0"),
        pytest.param({"lime": pb.Lime(surrogate=99)}, "spec.lime.surrogate", id="unknown surrogate"),
        pytest.param(
            {
                "lime": pb.Lime(),
                "features": pb.Features(spans=[pb.CharacterSpan(start=0, end=3), pb.CharacterSpan(start=2, end=5)]),
            },
            "spec.features.spans[1]",
            id="spans that overlap",
        ),
        pytest.param(
            {"lime": pb.Lime(), "features": pb.Features(spans=[pb.CharacterSpan(start=0, end=1000)])},
            "spec.features.spans[0]",
            id="span beyond the text",
        ),
        pytest.param(
            {"lime": pb.Lime(), "features": pb.Features(spans=[pb.CharacterSpan(start=4, end=4)])},
            "spec.features.spans[0]",
            id="empty span",
        ),
        pytest.param(
            {"lime": pb.Lime(), "target": pb.Target(next_token=pb.NextTokenTarget(text=""))},
            "spec.target.next_token.text",
            id="empty target",
        ),
        pytest.param(
            {"lime": pb.Lime(), "target": pb.Target(next_token=pb.NextTokenTarget(id=INT_MAX))},
            "spec.target.next_token.id",
            id="target beyond the vocabulary",
        ),
        pytest.param(
            {"lime": pb.Lime(), "target": pb.Target(continuation=continuation(""))},
            "spec.target.continuation.text",
            id="empty continuation",
        ),
        pytest.param(
            {
                "lime": pb.Lime(),
                "target": pb.Target(contrast=pb.ContrastTarget(chosen=continuation(" a"), rejected=continuation(" a"))),
            },
            "spec.target.contrast.rejected",
            id="contrast without a difference",
        ),
        pytest.param(
            {"lime": pb.Lime(), "removal": pb.Removal(kind=pb.REMOVAL_KIND_TEXT)}, "spec.removal.text", id="text"
        ),
        pytest.param({"lime": pb.Lime(), "removal": pb.Removal(kind=99)}, "spec.removal.kind", id="unknown removal"),
        pytest.param(
            {"lime": pb.Lime(), "budget": pb.Budget(max_evaluations=0)}, "spec.budget.max_evaluations", id="budget 0"
        ),
        pytest.param(
            {"lime": pb.Lime(), "budget": pb.Budget(max_duration={"seconds": -1})},
            "spec.budget.max_duration",
            id="seconds -1",
        ),
        pytest.param(
            {"integrated_gradients": pb.IntegratedGradients(steps=0)}, "spec.integrated_gradients.steps", id="steps 0"
        ),
        pytest.param(
            {
                "integrated_gradients": pb.IntegratedGradients(),
                "removal": pb.Removal(kind=pb.REMOVAL_KIND_DELETE),
            },
            "spec.removal.kind",
            id="a path to nowhere",
        ),
    ],
)
def test_a_bad_spec(served, fields, field):
    request = pb.CreateExplanationRequest(spec=pb.ExplanationSpec(prompt=GOOD, **fields))
    refusal = refused(served.explanations.CreateExplanation, request)
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", field)


TWENTY = [pb.Prompt(text=str(number)) for number in range(20)]
GROUPS = [pb.SwapSet(label=label, words=["a"]) for label in "ab"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        pytest.param({}, "study.method", id="no method"),
        pytest.param(
            {"global_surrogate": pb.GlobalSurrogate(prompts=TWENTY[1:])},
            "study.global_surrogate.prompts",
            id="few prompts",
        ),
        pytest.param(
            {"global_surrogate": pb.GlobalSurrogate(prompts=[*TWENTY, pb.Prompt(text="word " * 500)])},
            "study.global_surrogate.prompts[20].text",
            id="a prompt too long",
        ),
        pytest.param(
            {"global_surrogate": pb.GlobalSurrogate(prompts=[*TWENTY, pb.Prompt()])},
            "study.global_surrogate.prompts[20]",
            id="no prompt",
        ),
        pytest.param({"bias_probe": pb.BiasProbe(templates=["{}"])}, "study.bias_probe.groups", id="no groups"),
        pytest.param(
            {"bias_probe": pb.BiasProbe(templates=["text"], groups=GROUPS)},
            "study.bias_probe.templates[0]",
            id="no slot",
        ),
        pytest.param(
            {
                "bias_probe": pb.BiasProbe(templates=["{}"], groups=GROUPS),
                "budget": pb.Budget(standard_error=0.1),
            },
            "study.budget.standard_error",
            id="a standard error",
        ),
    ],
)
def test_a_bad_study(served, fields, field):
    refusal = refused(served.explanations.CreateExplanation, pb.CreateExplanationRequest(study=pb.StudySpec(**fields)))
    reason = "PROMPT_TOO_LONG" if "[20].text" in field else "INVALID_FIELD"
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, reason, field)


def test_no_question(served):
    refusal = refused(served.explanations.CreateExplanation, pb.CreateExplanationRequest())
    assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", "question")


@pytest.mark.parametrize("request_id", ["with space", "é", "x" * 129, "a/b"])
def test_a_bad_request_id(served, request_id):
    request = pb.CreateExplanationRequest(spec=pb.ExplanationSpec(prompt=GOOD, lime=pb.Lime()), request_id=request_id)
    refusal = refused(served.explanations.CreateExplanation, request)
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "request_id")


@pytest.mark.parametrize("name", ["", "explanations/", "explanations/a b", "explanations/a/b", "models/1", "1" * 500])
def test_a_bad_name(served, name):
    for method, kind in [
        (served.explanations.GetExplanation, pb.GetExplanationRequest),
        (served.explanations.WatchExplanation, pb.WatchExplanationRequest),
        (served.explanations.CancelExplanation, pb.CancelExplanationRequest),
        (served.explanations.DeleteExplanation, pb.DeleteExplanationRequest),
    ]:
        refusal = refused(method, kind(name=name))
        assert (refusal.code, refusal.reason, refusal.field) == (Code.INVALID_ARGUMENT, "INVALID_FIELD", "name")


@pytest.mark.parametrize(
    ("fields", "field"), [({"page_size": -1}, "page_size"), ({"page_size": 1001}, "page_size"), ({"state": 9}, "state")]
)
def test_a_bad_list(served, fields, field):
    refusal = refused(served.explanations.ListExplanations, pb.ListExplanationsRequest(**fields))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, field)
