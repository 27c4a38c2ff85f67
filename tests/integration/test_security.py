"""TLS, mutual TLS and API keys, on real servers."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from deploy.probe import check_grpc
from gloss import AsyncClient, Client, GlossError
from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from server.engine import Engine
from server.keys import KeyFile
from server.keys import main as keys_command
from tests.integration.explanations import wait_for
from tests.integration.serving import Code, refused, serve

TEXT = "The capital of France is"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    for name in ("GLOSS_KEY", "GLOSS_CA", "GLOSS_CERTIFICATE", "GLOSS_CERTIFICATE_KEY"):
        monkeypatch.delenv(name, raising=False)


def tls(authority, **more):
    return {"tls_certificate": authority.server.certificate, "tls_key": authority.server.key, **more}


def test_a_key_opens_what_it_should_and_none_stays_outside(tiny_gpt2, keys, caplog):
    key = keys("alice")
    with caplog.at_level("DEBUG"), serve([tiny_gpt2], api_keys_file=keys.path) as served:
        address = f"127.0.0.1:{served.server.port}"
        with Client(address, key=key) as client:
            assert client.next_token(TEXT, top_k=1).predictions
            assert len(list(client.generate(TEXT, max_tokens=2))) == 2
            assert key not in repr(client)
        request = pb.NextTokenRequest(prompts=[pb.Prompt(text=TEXT)])
        for wrong in (None, "guess", f"{key}x"):
            with Client(address, key=wrong) as client, pytest.raises(GlossError) as caught:
                client.next_token(TEXT)
            assert (caught.value.code, caught.value.reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
            with Client(address, key=wrong) as client, pytest.raises(GlossError) as caught:
                list(client.generate(TEXT))
            assert caught.value.code is Code.UNAUTHENTICATED
        assert refused(served.explanations.ListExplanations, pb.ListExplanationsRequest()).code is Code.UNAUTHENTICATED
        assert refused(served.inference.NextToken, request).reason == "UNAUTHENTICATED"
        # Whoever asks for health has no key: an orchestrator, a balancer.
        assert served.health("") == "SERVING"
        watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        handled = {"grpc_type": "unary", "grpc_service": "gloss.v1.InferenceService", "grpc_method": "NextToken"}
        wait_for(lambda: served.metric("grpc_server_handled_total", grpc_code="Unauthenticated", **handled) == 4)
        assert "alice" not in served.page()
        assert keys_command(["revoke", "alice", "--file", str(keys.path)]) == 0
        keys("bob")
        with Client(address, key=key) as client, pytest.raises(GlossError, match="requires an API key"):
            client.models()
    assert key not in caplog.text


@pytest.mark.parametrize("apart", [None, True, False])
def test_tenants_have_cached_prefixes_of_their_own_unless_a_setting_says_otherwise(tiny_gpt2, keys, apart):
    named = {
        name: keys(name, *tenant) for name, *tenant in (["alice"], ["bob", "--tenant", "b"], ["b", "--tenant", "b"])
    }
    setting = {} if apart is None else {"caches_by_tenant": apart}
    with serve([tiny_gpt2], api_keys_file=keys.path, **setting) as served:

        def newly_cached(name, prompt="x" * 70):
            before = served.metric("gloss_prefix_cache_tokens_total", model="tiny-gpt2")
            with Client(f"127.0.0.1:{served.server.port}", key=named[name]) as client:
                client.next_token(prompt)
                assert len(list(client.generate(f"{prompt} and", max_tokens=2))) == 2
            return served.metric("gloss_prefix_cache_tokens_total", model="tiny-gpt2") - before

        once, foreign, shared = newly_cached("alice"), newly_cached("bob"), newly_cached("b")
        assert once > 0
        assert (foreign == once) is (apart is not False)
        assert shared > once, "keys of one tenant share"


def test_a_key_is_one_caller_over_all_its_connections(tiny_gpt2, keys, monkeypatch):
    callers = {"submit": [], "generate": []}

    def ask(served, *clients):
        for noted in callers.values():
            noted.clear()
        for key in clients:
            with Client(f"127.0.0.1:{served.server.port}", key=key) as client:
                client.next_token(TEXT)
                assert list(client.generate(TEXT, max_tokens=2))
        assert callers["submit"] == callers["generate"]
        return callers["submit"]

    def note(verb):
        method = getattr(Engine, verb)

        def call(*arguments, caller=None, **named):
            callers[verb].append(caller)
            return method(*arguments, caller=caller, **named)

        monkeypatch.setattr(Engine, verb, call)

    note("submit")
    note("generate")
    alice, bob = keys("alice"), keys("bob")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        assert ask(served, alice, bob, alice) == ["alice", "bob", "alice"]
    with serve([tiny_gpt2]) as served:
        assert all(caller.startswith("ipv4:127.0.0.1:") for caller in ask(served, None, None))


def test_reflection_wants_a_key(tiny_gpt2, keys):
    key = keys("alice")
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        ask = reflection_pb2_grpc.ServerReflectionStub(served.channel).ServerReflectionInfo
        [answer] = ask(iter([question]), metadata=[("authorization", f"bearer {key}")], timeout=20)
        assert "gloss.v1.InferenceService" in {one.name for one in answer.list_services_response.service}
        with pytest.raises(grpc.RpcError) as caught:
            list(ask(iter([question]), timeout=20))
        assert caught.value.code() is Code.UNAUTHENTICATED


def test_a_key_is_looked_up_once_a_call(tiny_gpt2, keys, monkeypatch):
    key, find, looked_up = keys("alice"), KeyFile.find, []
    monkeypatch.setattr(KeyFile, "find", lambda self, presented: looked_up.append(presented) or find(self, presented))
    with (
        serve([tiny_gpt2], api_keys_file=keys.path) as served,
        Client(f"127.0.0.1:{served.server.port}", key=key) as client,
    ):
        client.next_token(TEXT)
        assert looked_up == [key]
        list(client.generate(TEXT, max_tokens=2))
        assert looked_up == [key] * 2


def test_the_key_comes_before_the_bytes(tiny_gpt2, keys):
    key = keys("alice")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        for method, call in (("NextToken", served.channel.unary_unary), ("Generate", served.channel.unary_stream)):
            send = call(f"/gloss.v1.InferenceService/{method}", response_deserializer=pb.NextTokenResponse.FromString)
            assert refused(send, b"\xff\xff").code is Code.UNAUTHENTICATED

            def with_key(request, timeout, send=send):
                return send(request, timeout=timeout, metadata=[("authorization", f"Bearer {key}")])

            assert refused(with_key, b"\xff\xff").code is Code.INVALID_ARGUMENT


def test_a_key_beyond_its_limits_is_told_when_to_come_back(gate, tiny_gpt2, keys):
    few, other = keys("few", "--calls", "1", "--prompts-per-minute", "5"), keys("other")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        stub = InferenceServiceStub(served.channel)

        def ask(key, prompts=1):
            request = pb.NextTokenRequest(prompts=[pb.Prompt(text=TEXT)] * prompts)
            return stub.NextToken.future(request, metadata=[("authorization", f"Bearer {key}")], timeout=20)

        while gate.entered.acquire(blocking=False):  # the warm-up's batches
            pass
        gate.open.clear()
        first = ask(few, 3)
        assert gate.entered.acquire(timeout=20)
        second = ask(few)
        assert second.code() is Code.RESOURCE_EXHAUSTED
        gate.open.set()
        assert len(first.result().predictions) == 3
        third = ask(few, 3)
        with pytest.raises(grpc.RpcError):
            third.result()
        refusal = refused(lambda *_, **__: third.result(), None)
        assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "KEY_LIMIT")
        assert refusal.metadata == {"limit": "prompts_per_minute", "value": "5"}
        assert 0 < refusal.retry_seconds <= 12
        assert len(ask(other, 9).result().predictions) == 9, "others are unharmed"
        assert len(ask(few, 2).result().predictions) == 2, "what was refused is not counted"


def test_a_stream_that_its_caller_leaves_gives_its_place_back(tiny_gpt2, keys):
    key = keys("one", "--calls", "1")
    with serve([tiny_gpt2], api_keys_file=keys.path) as served:
        client = Client(f"127.0.0.1:{served.server.port}", key=key)
        stream = client.generate(TEXT, max_tokens=100)
        next(stream)
        with pytest.raises(GlossError) as caught:
            client.models()
        assert (caught.value.reason, caught.value.metadata["limit"]) == ("KEY_LIMIT", "calls")
        stream.close()

        def allowed():
            with suppress(GlossError):
                return bool(client.models().models)
            return False

        wait_for(allowed)
        client.close()


def test_tls(tiny_gpt2, authority, monkeypatch):
    with serve([tiny_gpt2], **tls(authority)) as served:
        address = f"127.0.0.1:{served.server.port}"
        with Client(address, ca=authority.ca) as client:
            assert client.models().models
        for stranger in ({}, {"tls": True}, {"ca": authority.stranger.certificate}):
            with Client(address, timeout=5, **stranger) as client, pytest.raises(GlossError) as caught:
                client.models()
            assert caught.value.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
        monkeypatch.setenv("GLOSS_CA", str(authority.ca))
        check_grpc(address)

        async def ask():
            async with AsyncClient(address) as client:
                return await client.models()

        assert asyncio.run(ask()).models


def test_mutual_tls_and_keys_together(tiny_gpt2, authority, keys, monkeypatch):
    key = keys("alice")
    settings = tls(authority, tls_client_ca=authority.ca, api_keys_file=keys.path)
    with serve([tiny_gpt2], **settings) as served:
        address = f"127.0.0.1:{served.server.port}"
        own, strange = authority.client, authority.stranger
        with Client(address, ca=authority.ca, certificate=(own.certificate, own.key), key=key) as client:
            assert client.models().models
        with Client(address, ca=authority.ca, certificate=(own.certificate, own.key)) as client:
            with pytest.raises(GlossError) as caught:
                client.models()
            assert caught.value.code is Code.UNAUTHENTICATED
        for certificate in (None, (strange.certificate, strange.key)):
            with Client(address, timeout=5, ca=authority.ca, certificate=certificate, key=key) as client:
                with pytest.raises(GlossError) as caught:
                    client.models()
                assert caught.value.code in {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED}
        monkeypatch.setenv("GLOSS_CA", str(authority.ca))
        monkeypatch.setenv("GLOSS_CERTIFICATE", str(own.certificate))
        monkeypatch.setenv("GLOSS_CERTIFICATE_KEY", str(own.key))
        monkeypatch.setenv("GLOSS_KEY", key)
        with Client(address) as client:
            assert client.models().models


@pytest.mark.processes
def test_a_process_serves_other_machines_only_with_both(server_process, tiny_gpt2, authority, keys):
    key = keys("alice")
    everywhere = {"GLOSS_MODEL": str(tiny_gpt2), "GLOSS_HOST": "0.0.0.0"}  # noqa: S104 -- what this is about
    certificate = {
        "GLOSS_TLS_CERTIFICATE": str(authority.server.certificate),
        "GLOSS_TLS_KEY": str(authority.server.key),
    }
    half = server_process({**everywhere, **certificate}, wait=False)
    swapped = server_process({**certificate, "GLOSS_TLS_KEY": str(authority.client.key)}, wait=False)
    broken = server_process(GLOSS_API_KEYS_FILE=str(authority.ca), wait=False)
    for server, said in (
        (half, "without a check of callers (GLOSS_API_KEYS_FILE or GLOSS_TLS_CLIENT_CA)"),
        (swapped, "GLOSS_TLS_CERTIFICATE and GLOSS_TLS_KEY: not PEM, or the two do not belong together"),
        (broken, "GLOSS_API_KEYS_FILE: line 1 of"),
    ):
        wait_for(lambda server=server: server.child.exit_code() is not None, timeout=60)
        assert server.child.exit_code() == 2
        [line] = [line for line in server.log.splitlines() if line.startswith("error: ")]
        assert said in line
        assert "Traceback" not in server.log
    whole = server_process({**everywhere, **certificate, "GLOSS_API_KEYS_FILE": str(keys.path)})
    with Client(f"localhost:{whole.grpc.rpartition(':')[2]}", ca=authority.ca, key=key) as client:
        assert client.next_token(TEXT).predictions
    assert key not in whole.log
