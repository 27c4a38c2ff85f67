"""The blocking client against a scripted server."""

from __future__ import annotations

import inspect
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

import gloss
from gloss import AsyncClient, Client, ExplanationFailedError, GlossError, durations, patience, v1
from tests.unit.gloss import fake


def test_next_token_of_a_batch(client: Client, script: fake.Script) -> None:
    reply = client.next_token(["one prompt", [3, 1], [("user", "hello")]], top_k=2, temperature=0.5, model="fake")

    assert [token.text for token in reply.predictions[2].top] == [" Paris", " the"]
    request = script.requests["NextToken"][0]
    assert request.prompts[0].text == "one prompt"
    assert list(request.prompts[1].token_ids.ids) == [3, 1]
    assert request.prompts[2].chat.messages[0].role == "user"
    assert (request.top_k, request.temperature, request.model) == (2, 0.5, "fake")


def test_what_is_not_said_is_not_sent(client: Client, script: fake.Script) -> None:
    client.next_token("hello")
    request = script.requests["NextToken"][0]
    assert not request.HasField("top_k")
    assert not request.HasField("temperature")


def test_score_tokenize_models_and_attention(client: Client, script: fake.Script) -> None:
    assert client.score("a b", " c").scores[0].log_probability == -0.5
    [score] = client.score("a b", " c", top_k=1).scores
    assert score.tokens[0].top[0].text == " Rome"
    assert len(client.score_many([("a", " b"), ([1], [2])]).scores) == 2
    assert script.requests["Score"][2].items[1].continuation.token_ids.ids == [2]
    assert [token.text for token in client.tokenize("a b").tokens] == ["a", "b"]
    assert client.models().models[0].is_default
    assert client.attention("a b", reduction="head-mean", half=True).heads == []
    assert script.requests["Attention"][0].type == v1.TENSOR_TYPE_FLOAT16


def test_times_are_numbers(client: Client) -> None:
    timings = client.next_token("a b").timings
    assert durations.milliseconds(timings.model_duration) == 3
    assert durations.seconds(timings.queue_duration) == pytest.approx(0.0001)


def test_generate_streams(client: Client) -> None:
    assert "".join(reply.text for reply in client.generate("The capital of France is")) == " Paris."


def test_leaving_a_stream_early_is_fine(client: Client) -> None:
    for reply in client.generate("The capital of France is"):
        assert reply.text == " Paris"
        break


def test_errors_are_decoded(client: Client, script: fake.Script) -> None:
    script.failures["NextToken"].append(fake.bad_field("top_k", "top_k must be between 1 and 1000, not 0"))
    with pytest.raises(GlossError) as caught:
        client.next_token("hello", top_k=0)
    error = caught.value
    assert (error.code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", "top_k")
    assert error.retry_after is None
    assert "between 1 and 1000" in str(error)


def test_retry_after_is_decoded_and_a_full_queue_is_not_retried(client: Client, script: fake.Script) -> None:
    script.failures["CreateExplanation"].append(fake.queue_full())
    with pytest.raises(GlossError) as caught:
        client.explain("hello world", "lime", wait=False)
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 2.5)
    assert script.attempts["CreateExplanation"] == 1


def test_unavailable_is_retried_where_that_is_safe(client: Client, script: fake.Script) -> None:
    script.failures["NextToken"] += [grpc.StatusCode.UNAVAILABLE] * 2
    client.next_token("hello")
    assert script.attempts["NextToken"] == 3

    script.failures["DeleteExplanation"].append(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(GlossError):
        client.delete("7")
    assert script.attempts["DeleteExplanation"] == 1


def test_other_errors_are_not_retried(client: Client, script: fake.Script) -> None:
    script.failures["Score"].append(grpc.StatusCode.INTERNAL)
    with pytest.raises(GlossError) as caught:
        client.score("a", " b")
    assert caught.value.code is grpc.StatusCode.INTERNAL
    assert script.attempts["Score"] == 1


def test_a_created_explanation_keeps_its_request_id_over_retries(client: Client, script: fake.Script) -> None:
    script.failures["CreateExplanation"].append(grpc.StatusCode.UNAVAILABLE)
    client.explain("hello world", wait=False)
    assert script.attempts["CreateExplanation"] == 2
    assert len(script.requests["CreateExplanation"][0].request_id) == 32


def test_no_server() -> None:
    with Client("127.0.0.1:1", timeout=5) as client, pytest.raises(GlossError) as caught:
        client.models()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == ""


def test_every_call_has_a_time_out(client: Client, script: fake.Script, monkeypatch: pytest.MonkeyPatch) -> None:
    def stuck(self, request, context):
        while context.is_active():
            time.sleep(0.005)

    monkeypatch.setattr(fake.Inference, "Score", stuck)
    with fake.serve() as (address, _), Client(address, timeout=0.1) as hasty:
        with pytest.raises(GlossError) as caught:
            hasty.score("a", " b")
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        hasty.models(timeout=10)


def test_api_key_travels_as_a_bearer_token(address: str, script: fake.Script) -> None:
    with Client(address, key="secret") as client:
        client.models()
        assert "secret" not in repr(client)
    assert script.metadata["authorization"] == "Bearer secret"


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOSS_ADDRESS", "example.invalid:1")
    assert Client().address == "example.invalid:1"
    monkeypatch.delenv("GLOSS_ADDRESS")
    assert Client().address == "127.0.0.1:50051"


def test_explain_reports_progress_and_answers_the_result(client: Client) -> None:
    seen: list[v1.Explanation] = []
    why = client.explain(fake.TEXT, "lime", target=" Paris", on_progress=seen.append)
    assert [step.state for step in seen] == [
        v1.EXPLANATION_STATE_QUEUED,
        v1.EXPLANATION_STATE_RUNNING,
        v1.EXPLANATION_STATE_RUNNING,
        v1.EXPLANATION_STATE_SUCCEEDED,
    ]
    assert seen[2].partial_result.attributions
    assert why.result.attributions[3].attribution == 2.5
    assert not any(step.HasField("spec") for step in seen[1:])
    assert why.spec == seen[0].spec
    assert why.spec.prompt.text == fake.TEXT


def test_get_list_and_watch_take_a_view(client: Client, script: fake.Script) -> None:
    client.explain("hello world")

    def logged(**view: Any) -> list[bool]:
        seen = [client.get("1", **view), *client.list(**view), *client.watch("1", **view)]
        return [explanation.HasField("spec") for explanation in seen]

    assert logged() == [True, False, *[False] * 3]
    assert logged(view="basic") == [False] * 5
    assert logged(view="full") == [True] * 5
    with pytest.raises(ValueError, match="choose from basic, full"):
        client.get("1", view="half")


def test_estimate_asks_for_the_cost_alone(client: Client, script: fake.Script) -> None:
    asked = {"target": " Paris", "max_evaluations": 50}
    checked = client.estimate(fake.TEXT, "lime", **asked)
    assert checked.name == ""
    assert checked.progress.evaluations_planned == 32
    client.create(fake.TEXT, "lime", **asked)
    dry, real = script.requests["CreateExplanation"]
    assert dry.validate_only
    assert not real.validate_only
    assert dry.spec == real.spec
    assert client.estimate(real.spec).progress == checked.progress


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (v1.EXPLANATION_STATE_FAILED, grpc.StatusCode.ABORTED),
        (v1.EXPLANATION_STATE_CANCELLED, grpc.StatusCode.CANCELLED),
    ],
)
def test_an_explanation_that_ends_badly_raises(client: Client, script: fake.Script, end: int, code: object) -> None:
    script.end = end
    with pytest.raises(ExplanationFailedError) as caught:
        client.explain("hello world")
    assert caught.value.code is code
    assert caught.value.explanation.name == "explanations/1"
    assert caught.value.reason == ("WORKER_LOST" if code is grpc.StatusCode.ABORTED else "")


def test_list_turns_pages(client: Client, script: fake.Script) -> None:
    for number in range(5):
        client.explain(f"prompt {number}", wait=False)
    names = [explanation.name for explanation in client.list(page_size=2)]
    assert names == [f"explanations/{number}" for number in (5, 4, 3, 2, 1)]
    assert script.attempts["ListExplanations"] == 3
    assert list(client.list(state="failed")) == []


def test_get_cancel_delete_take_the_bare_id(client: Client) -> None:
    client.explain("hello world", wait=False)
    assert client.get("1").name == "explanations/1"
    assert client.cancel("explanations/1").state == v1.EXPLANATION_STATE_CANCELLED
    client.delete("1")
    with pytest.raises(GlossError) as caught:
        client.get("1")
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_watch_survives_dropped_connections(client: Client, script: fake.Script) -> None:
    queued = client.explain("hello world", wait=False)
    script.watches += [
        [queued, grpc.StatusCode.UNAVAILABLE],
        [grpc.StatusCode.UNAVAILABLE],
        [queued],  # closed in good order, but too early
    ]
    states = [explanation.state for explanation in client.watch("1")]
    assert states[-1] == v1.EXPLANATION_STATE_SUCCEEDED
    assert script.attempts["WatchExplanation"] == 4


def test_watch_survives_a_restart_of_the_server() -> None:
    endless = v1.Explanation(name="explanations/1", state=v1.EXPLANATION_STATE_RUNNING)
    with fake.serve() as (address, script):
        client = Client(address)
        client.explain("hello world", wait=False)
        script.watches += [[endless, grpc.StatusCode.UNAVAILABLE]]
        changes = client.watch("1")
        assert next(changes).state == v1.EXPLANATION_STATE_RUNNING
    with client, fake.serve(script, port=int(address.rpartition(":")[2])):
        assert [change.state for change in changes][-1] == v1.EXPLANATION_STATE_SUCCEEDED


def test_watch_gives_up_in_time(client: Client, script: fake.Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "OUTAGE_SECONDS", 0.2)
    queued = client.explain("hello world", wait=False)
    script.watches += [[queued, grpc.StatusCode.UNAVAILABLE]] + [[grpc.StatusCode.UNAVAILABLE]] * 100
    with pytest.raises(GlossError) as caught:
        list(client.watch("1"))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_watch_raises_what_does_not_pass(client: Client, script: fake.Script) -> None:
    with pytest.raises(GlossError) as caught:
        list(client.watch("unknown"))
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert script.attempts["WatchExplanation"] == 1


def test_watch_without_a_server_fails_at_once() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(GlossError) as caught:
        list(client.watch("1"))
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_watch_ends_when_its_own_time_is_over(client: Client, script: fake.Script) -> None:
    queued = client.explain("hello world", wait=False)
    script.watches += [[queued]] * 1000
    with pytest.raises(GlossError) as caught:
        list(client.watch("1", timeout=0.3))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "goes on" in caught.value.message


def test_both_clients_offer_the_same_documented_methods() -> None:
    def methods(kind: type) -> dict[str, inspect.Signature]:
        named = inspect.getmembers(kind, callable)
        return {name: inspect.signature(method) for name, method in named if not name.startswith("_")}

    blocking, asynchronous = methods(Client), methods(AsyncClient)
    blocking.pop("close"), asynchronous.pop("close")
    assert blocking == asynchronous
    assert all(getattr(Client, name).__doc__ for name in blocking)
    assert "top_k" in blocking["next_token"].parameters
    assert "prompts" in inspect.signature(Client("127.0.0.1:1").next_token).parameters


def test_the_package_offers_what_it_says() -> None:
    assert all(hasattr(gloss, name) for name in gloss.__all__)


def test_a_closed_client_says_so(address: str) -> None:
    client = Client(address)
    replies = client.generate("hello")
    assert next(replies).text == " Paris"
    client.close()
    for call in (client.models, lambda: list(client.generate("hello")), lambda: list(client.watch("1"))):
        with pytest.raises(GlossError, match="is closed") as caught:
            call()
        assert caught.value.code is grpc.StatusCode.CANCELLED
    client.close()


def test_a_client_that_is_closed_under_a_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def stuck(self, request, context):
        begun.set()
        while context.is_active():
            time.sleep(0.005)

    monkeypatch.setattr(fake.Inference, "Score", stuck)
    with fake.serve() as (address, _), ThreadPoolExecutor(1) as pool:
        client = Client(address)
        call = pool.submit(client.score, "a", " b")
        assert begun.wait(10)
        client.close()
        with pytest.raises(GlossError, match="is closed"):
            call.result(10)


@pytest.mark.parametrize("method", ["create", "explain"])
def test_create_takes_what_explain_takes(client: Client, script: fake.Script, method: str) -> None:
    more = {"wait": False} if method == "explain" else {}
    asked = {"target": " Paris", "features": "token", "max_evaluations": 50, "faithfulness": False, "seed": 3}
    assert getattr(client, method)(fake.TEXT, "lime", **asked, **more).state == v1.EXPLANATION_STATE_QUEUED
    assert script.requests["CreateExplanation"][0].spec == v1.ExplanationSpec(
        prompt=v1.Prompt(text=fake.TEXT),
        lime=v1.Lime(),
        target=v1.Target(next_token=v1.NextTokenTarget(text=" Paris")),
        features=v1.Features(unit=v1.FEATURE_UNIT_TOKEN),
        budget=v1.Budget(max_evaluations=50, seed=3),
        quality=v1.Quality(faithfulness=False),
    )


def test_create_takes_a_whole_spec_and_nothing_beside_it(client: Client, script: fake.Script) -> None:
    spec = v1.ExplanationSpec(prompt=v1.Prompt(text="hello"), occlusion=v1.Occlusion(window=2))
    client.create(spec, fresh=True, request_id="mine")
    assert script.requests["CreateExplanation"][0] == v1.CreateExplanationRequest(
        spec=spec, fresh=True, request_id="mine"
    )
    for contradiction in ({"method": "occlusion"}, {"seed": 1}, {"target": " x"}):
        with pytest.raises(ValueError, match=f"leave out {next(iter(contradiction))}"):
            client.create(spec, **contradiction)


HALF = "a\ud83d b"


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.tokenize(HALF),
        lambda client: client.next_token(["a", HALF]),
        lambda client: client.next_token([("user", HALF)]),
        lambda client: client.score("a", HALF),
        lambda client: client.score_many([("a", "b"), (HALF, "b")]),
        lambda client: client.generate("a", stop=["b", HALF]),
        lambda client: client.attention(HALF),
        lambda client: client.explain("a", target=HALF),
        lambda client: client.explain("a", "lime", target="b", against=HALF),
        lambda client: client.explain("a", replacement=HALF),
        lambda client: client.create(HALF, "lime"),
        lambda client: client.estimate(HALF),
        lambda client: client.study(gloss.build.bias_probe([HALF], {"a": ["b"], "c": ["d"]})),
        lambda client: client.study(gloss.build.global_surrogate(["a", HALF])),
        lambda client: client.get(HALF),
        lambda client: client.watch(HALF),
        lambda client: client.tokenize("a", model=HALF),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_half_a_surrogate_pair_is_told_with_its_place(client: Client, kind: type[Any], ask: Any) -> None:
    asked = client if kind is Client else AsyncClient(client.address)
    with pytest.raises(GlossError, match=r"U\+D83D, half of a surrogate pair, at position \d+, after '.*a'") as caught:
        ask(asked)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_what_a_callback_raises_is_its_own(client: Client) -> None:
    def on_progress(explanation: v1.Explanation) -> None:
        "\ud83d".encode()

    with pytest.raises(UnicodeEncodeError):
        client.explain("The capital of France is", on_progress=on_progress)


@pytest.mark.parametrize("timeout", [None, 1e10, 1e300, math.inf])
def test_a_long_timeout_is_no_limit(address: str, timeout: float | None) -> None:
    """What gRPC takes for over."""
    with Client(address, timeout=timeout) as client:
        assert client.tokenize("hello").tokens
        assert client.tokenize("hello", timeout=math.inf).tokens
        assert list(client.generate("hello", timeout=1e18))
        assert client.explain("hello", timeout=math.inf).result.attributions


def test_a_timeout_is_a_number(client: Client) -> None:
    for call in (client.tokenize, client.explain):
        with pytest.raises(ValueError, match="number of seconds"):
            call("hello", timeout=math.nan)  # type: ignore[operator]


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "ipv4:127.0.0.1:{}", "dns:localhost:{}", "dns:///127.0.0.1:{}"],
)
def test_a_proxy_is_not_asked_for_this_machine(
    address: str, monkeypatch: pytest.MonkeyPatch, target: str, unused: str
) -> None:
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, f"http://{unused}")
    with Client(target.format(address.rpartition(":")[2]), timeout=10) as client:
        assert client.tokenize("hello").tokens


@pytest.mark.parametrize("target", ["dns:///{}", "{}"])
def test_a_proxy_is_asked_for_other_machines(monkeypatch: pytest.MonkeyPatch, target: str, unused: str) -> None:
    monkeypatch.setenv("grpc_proxy", f"http://{unused}")
    with Client(target.format("gloss.invalid:1"), timeout=10) as client, pytest.raises(GlossError) as caught:
        client.tokenize("hello")
    assert unused in caught.value.message, "the proxy was tried, not a name server"


@pytest.fixture
def unused() -> Iterator[str]:
    """HOST:PORT where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda client: client.get(v1.Explanation(name="explanations/1")), "the name of an explanation is text"),
        (lambda client: client.cancel(7), "the name of an explanation is text"),
        (
            lambda client: client.explain("A text", None),
            "a method is a name such as 'occlusion'",
        ),
        (lambda client: client.study("bias"), "the method of StudySpec is a message, not 'bias'"),
        (lambda client: client.next_token("A text", timeout="1"), "a timeout is a number of seconds, not '1'"),
        (lambda client: type(client)(50051), "an address is text, not int"),
        (lambda client: type(client)(key=7), "a key is text, not int"),
        (lambda client: type(client)(timeout="1"), "a timeout is a number of seconds, not '1'"),
    ],
)
def test_an_argument_of_another_type_is_named(call: Callable[[Client], object], said: str) -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(TypeError, match=said):
        call(client)
