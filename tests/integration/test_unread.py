"""Clients that do not read what they asked for: bounded, given up in the end, and no harm to others."""

from __future__ import annotations

import grpc
import pytest

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceStub
from tests.integration.explanations import wait_for
from tests.integration.serving import Code, Refusal, serve

STREAM = {
    "grpc_type": "server_stream",
    "grpc_service": "gloss.v1.InferenceService",
    "grpc_method": "Generate",
}
LONG = pb.GenerateRequest(prompt=pb.Prompt(text="The capital of France is"), max_tokens=100, top_k=400)
"""A megabyte."""

UNREADY = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
"""Of a connection that takes in little before it is read."""


def alone(server, request):
    """A stream on a connection of its own, of which nothing is read until the test does."""
    channel = grpc.insecure_channel(f"127.0.0.1:{server.server.port}", UNREADY)
    return InferenceServiceStub(channel).Generate(request, timeout=60), channel


def test_unread_streams_pause_and_others_go_on(tiny_gpt2, caplog):
    with serve([tiny_gpt2], max_generations=2) as served:
        unread = [alone(served, LONG) for _ in range(5)]
        wait_for(lambda: served.metric("gloss_generations", state="paused") == 5)
        assert len(list(served.inference.Generate(LONG, timeout=20))) == 100
        assert served.next_token("The capital").predictions
        first, *others = unread
        assert len(list(first[0])) == 100, "who reads after all gets everything"
        for call, channel in others:
            call.cancel()
            channel.close()
        wait_for(lambda: served.metric("gloss_generations", state="paused") == 0)
        wait_for(lambda: served.metric("grpc_server_handled_total", grpc_code="Canceled", **STREAM) == 4)
        first[1].close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_stream_that_nobody_reads_is_given_up(tiny_gpt2, caplog):
    with serve([tiny_gpt2], unread_seconds=0.2) as served:
        call, channel = alone(served, LONG)
        wait_for(lambda: served.metric("grpc_server_handled_total", grpc_code="Unavailable", **STREAM) == 1)
        wait_for(lambda: served.metric("gloss_generations", state="paused") == 0)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        refusal = Refusal(caught.value)
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STREAM_UNREAD")
        assert refusal.metadata == {"seconds": "0.2"}
        assert "read" in refusal.message
        channel.close()
        # Who reads slowly, but reads, is not given up.
        assert len(list(served.inference.Generate(LONG, timeout=20))) == 100
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_given_up_streams_do_not_hold_up_the_end(tiny_gpt2):
    with serve([tiny_gpt2], unread_seconds=0.2) as served:
        _, channel = alone(served, LONG)
        wait_for(lambda: served.metric("grpc_server_handled_total", grpc_code="Unavailable", **STREAM) == 1)
        served.on_loop(served.server.drain.wait_idle())
    channel.close()
