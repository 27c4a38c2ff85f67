"""The metrics page: complete, bounded, and as Prometheus wants it."""

from __future__ import annotations

import re

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gloss import v1 as pb
from tests.integration.explanations import wait_for
from tests.integration.serving import refused

RPC = {"grpc_type": "unary", "grpc_service": "gloss.v1.InferenceService", "grpc_method": "Tokenize"}


def test_calls_are_counted_by_code_and_timed(served):
    def counts():
        return [
            served.metric("grpc_server_started_total", **RPC),
            served.metric("grpc_server_handled_total", **RPC, grpc_code="OK"),
            served.metric("grpc_server_handled_total", **RPC, grpc_code="InvalidArgument"),
            served.metric("grpc_server_handled_total", **RPC, grpc_code="NotFound"),
            served.metric("grpc_server_msg_received_total", **RPC),
            served.metric("grpc_server_msg_sent_total", **RPC),
            served.metric("grpc_server_handling_seconds_count", **RPC),
        ]

    before = counts()
    served.inference.Tokenize(pb.TokenizeRequest(prompt=pb.Prompt(text="a")))
    refused(served.inference.Tokenize, pb.TokenizeRequest())
    refused(served.inference.Tokenize, pb.TokenizeRequest(model="x", prompt=pb.Prompt(text="a")))
    wait_for(lambda: [after - past for after, past in zip(counts(), before, strict=True)] == [3, 1, 1, 1, 3, 1, 3])


def test_batches_and_tokens_are_counted(served):
    def counts():
        return [
            served.metric("gloss_tokens_total", model="tiny-gpt2", kind="prompt"),
            served.metric("gloss_batch_size_sum", model="tiny-gpt2"),
            served.metric("gloss_inference_queue_seconds_count", model="tiny-gpt2"),
        ]

    before = counts()
    reply = served.next_token("The capital", "The", model="tiny-gpt2")
    tokens = reply.usage.prompt_tokens
    assert [after - past for after, past in zip(counts(), before, strict=True)] == [tokens, 2, 2]


def test_what_a_client_invents_makes_no_series(served):
    for path in ["/gloss.v1.InferenceService/Invented", "/invented.Service/Method"]:
        with pytest.raises(grpc.RpcError):
            served.channel.unary_unary(path)(b"", timeout=5)
    refused(served.inference.Tokenize, pb.TokenizeRequest(model="invented-model", prompt=pb.Prompt(text="a")))
    assert "nvented" not in served.page()


def test_the_page_holds_what_the_models_are(served):
    page = served.page()
    for name in ["tiny-llama-chat", "tiny-gpt2", "tiny-lstm"]:
        assert re.search(rf'gloss_model_info{{.*model="{name}".*}} 1.0', page)
        assert served.metric("gloss_model_load_seconds", model=name) > 0


def test_the_page_passes_the_rules_of_promtool(served):
    served.next_token("The capital")
    families = list(text_string_to_metric_families(served.page()))
    names = {family.name for family in families}
    assert {
        "grpc_server_started",
        "grpc_server_handled",
        "grpc_server_msg_received",
        "grpc_server_msg_sent",
        "grpc_server_handling_seconds",
        "gloss_batch_size",
        "gloss_batch_tokens",
        "gloss_tokens",
        "gloss_inference_queue_depth",
        "gloss_inference_queue_seconds",
        "gloss_model_load_seconds",
        "gloss_model_info",
        "gloss_explanations_created",
        "gloss_explanation_queue_depth",
        "process_resident_memory_bytes",
    } <= names
    for family in families:
        samples = {sample.name for sample in family.samples}
        assert family.documentation, f"{family.name} has no help text"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name), f"{family.name} is not in snake case"
        assert not re.search(r"_(ms|milliseconds|kb|minutes)(_|$)", family.name), f"{family.name} has no base unit"
        if family.type == "counter":
            assert all(name.endswith("_total") for name in samples)
        else:
            assert not any(name.endswith("_total") for name in samples), f"{family.name} is no counter"
        if family.type not in {"histogram", "summary"}:
            assert not any(name.endswith(("_count", "_sum", "_bucket")) for name in samples)
        assert not any("_created" in name for name in samples)


def test_latencies_are_told_apart_from_a_millisecond_to_eighty_seconds(served):
    served.next_token("The capital")
    bounds = [
        float(sample.labels["le"])
        for family in text_string_to_metric_families(served.page())
        if family.name == "grpc_server_handling_seconds"
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["grpc_method"] == "NextToken"
    ]
    assert bounds[0] == 0.001
    assert bounds[-2:] == [80, float("inf")]
