"""Models of other kinds than attention alone: the server starts with them, and no call takes it down."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from gloss import v1 as pb
from tests.fixtures.zoo import save
from tests.integration.serving import Code, Served, serve

MODELS = ("mamba", "jamba", "gemma4, shared keys", "rwkv")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("zoo")
    with serve([save(name, folder / name.partition(",")[0]) for name in MODELS]) as server:
        yield server


@pytest.mark.parametrize("name", MODELS)
def test_it_answers_and_generates(served: Served, name: str) -> None:
    model = name.partition(",")[0]
    text = "The capital of France is Paris, and the capital of Spain"
    [predicted] = served.next_token(text, model=model, top_k=1).predictions
    request = pb.GenerateRequest(prompt=pb.Prompt(text=text), model=model, max_tokens=20)
    tokens = [reply.token.id for reply in served.inference.Generate(request, timeout=20)]
    assert tokens[0] == predicted.top[0].id
    assert 1 <= len(tokens) <= 20


def test_attention_of_layers_that_have_none_is_refused_and_of_others_shown(served: Served) -> None:
    request = pb.AttentionRequest(prompt=pb.Prompt(text="The capital of France"), model="jamba", layers=[0])
    with pytest.raises(grpc.RpcError) as caught:
        served.inference.Attention(request, timeout=20)
    assert caught.value.code() is Code.INVALID_ARGUMENT
    assert "layers without attention in this model: 0; leave them out" in caught.value.details()
    request = pb.AttentionRequest(prompt=pb.Prompt(text="The capital of France"), model="jamba", layers=[1])
    assert list(served.inference.Attention(request, timeout=20).layers) == [1]
