"""Inside a model: the mean embedding, gradients at embeddings, and layers without some values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from ml.attention import AttentionSpec, Reduction, resolve
from ml.errors import CapabilityError, MixedLayersError, NoAttentionError
from ml.models.base import MEAN, LanguageModel
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_capture import prepare, read_eager
from ml.models.internals.attention_maps import attend
from ml.models.internals.gradients import gradients
from ml.models.internals.open_model import OpenModel
from ml.models.loading import load
from ml.models.verification.verify import Ways, verify
from ml.runtime.spans import spans_of
from tests.fixtures.zoo import save
from tests.unit.ml.models.test_huggingface import KINDS, of_unknown_code

Load = Callable[[Path], LanguageModel]

IDS = [3, 14, 15, 92, 65, 35, 89, 79]
LSTM = Path(__file__).parents[4] / "ml/pretrained/lstm"
MODELS = ["tiny_llama", "tiny_gpt2", "lstm"]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, load_model: Load) -> LanguageModel:
    if request.param == "lstm":
        return load(str(LSTM), device="cpu")
    return load_model(request.getfixturevalue(request.param))


def by_embeddings(module: torch.nn.Module, ids: list[int]) -> Tensor:
    """What a Hugging Face model says after `ids`, looked up by hand."""
    with torch.no_grad():
        embedded = module.get_input_embeddings()(torch.arange(module.config.vocab_size))
        rows = torch.stack([embedded.mean(0) if token == MEAN else embedded[token] for token in ids])
        return module(inputs_embeds=rows.unsqueeze(0), use_cache=False).logits[0, -1]


def test_the_mean_embedding_is_read_like_a_token(model: LanguageModel) -> None:
    sequences = [[MEAN, 5, 6], [3, MEAN, MEAN, 7], [3, MEAN, MEAN, 8, 9], [MEAN], [3, 4, 5, 6]]
    found: dict[int, Tensor] = {}
    for batch in model.stream_logits(sequences, [1] * 5, max_tokens=12, max_logits=10):
        found.update(zip(batch.indices, batch.logits, strict=True))
    for index, (ids, together) in enumerate(zip(sequences, model.logits(sequences), strict=True)):
        points = model.embed(ids).unsqueeze(0)
        values, _ = model.gradients(points, 1, lambda logits: logits[:, -1, 7])
        assert float(found[index][0, 7]) == pytest.approx(float(values[0]), abs=1e-4)
        torch.testing.assert_close(together, found[index], atol=1e-4, rtol=1e-4)


def test_the_mean_is_the_mean(model: LanguageModel) -> None:
    embedded = model.embed([MEAN, 3])
    every = model.embed(range(model.info.vocabulary_size))
    torch.testing.assert_close(embedded[0], every.mean(0), atol=1e-6, rtol=1e-4)
    assert torch.equal(embedded[1], every[3])


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_embedding_in_other_architectures(kind: str) -> None:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(KINDS[kind][0]).eval()
    prepare(module)
    info = type("Info", (), {"context_length": 64})
    model = HuggingFaceModel(module, None, info, None, ways=verify(module, 64, "model"))
    sequences = [[*IDS[:4], MEAN, 5], [*IDS[:4], MEAN, 6], [MEAN, 2]]
    for batch in model.stream_logits(sequences, [1] * 3, max_tokens=64, max_logits=10):
        for index, rows in zip(batch.indices, batch.logits, strict=True):
            torch.testing.assert_close(rows[0], by_embeddings(module, sequences[index]), atol=1e-4, rtol=1e-4)


def test_gradients_are_what_small_changes_do(model: LanguageModel) -> None:
    assert isinstance(model, OpenModel)
    torch.manual_seed(0)
    points = model.embed(IDS).repeat(2, 1, 1)
    points[1] *= 0.7

    def objective(logits: Tensor) -> Tensor:
        return logits.double().log_softmax(-1)[:, :, 7].sum(1)

    values, gradients = model.gradients(points, 2, objective)
    assert values.shape == (2,)
    assert gradients.shape == points.shape
    assert gradients.dtype == torch.float32
    step = 2e-3 * F.normalize(torch.randn_like(points), dim=(1, 2)) * points.norm()
    (above, _), (below, _) = (model.gradients(points + sign * step, 2, objective) for sign in (1, -1))
    torch.testing.assert_close((above - below) / 2, (gradients * step).double().sum((1, 2)), atol=1e-3, rtol=0.05)


def check_behind(model: LanguageModel, prefix_ids: list[int]) -> None:
    """Behind a prefix that was read once, gradients are what they are of the whole."""
    prefix = model.read_prefix(prefix_ids)
    assert prefix is not None
    points = torch.stack([model.embed([*prefix_ids, *rest]) for rest in ([7, 8, MEAN, 9], [1, 2, 3, 4])])

    def objective(logits: Tensor) -> Tensor:
        return logits.double().log_softmax(-1)[:, :, 7].sum(1)

    values, gradients = model.gradients(points, 2, objective)
    behind = model.gradients(points[:, len(prefix_ids) :], 2, objective, prefix)
    torch.testing.assert_close(behind[0], values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(behind[1], gradients[:, len(prefix_ids) :], atol=1e-4, rtol=1e-3)


def test_gradients_behind_a_cached_prefix(model: LanguageModel) -> None:
    check_behind(model, [*IDS, *IDS, 5])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_behind_a_cached_prefix_in_other_architectures(kind: str) -> None:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(KINDS[kind][0]).eval()
    prepare(module)
    model = HuggingFaceModel(module, None, type("Info", (), {"context_length": 64}), None, ways=Ways(cached=64))
    check_behind(model, [*IDS, 5])


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("tail", [1, 3, 8])
@pytest.mark.parametrize("known", [0, 17])
def test_rows_of_a_batch_equal_a_batch(
    name: str, tail: int, known: int, request: pytest.FixtureRequest, load_model: Load
) -> None:
    model = load_model(request.getfixturevalue(name))
    assert model.ways.differentiated
    points = torch.stack([model.embed(IDS), model.embed(IDS[::-1]), 0.5 * model.embed(IDS)])
    before = model.read_prefix(range(known)).by_heads if known else ()

    def objective(logits: Tensor) -> Tensor:
        return logits.double().log_softmax(-1)[:, :, 7].sum(1)

    ways = (spans_of(model.module), None)
    rows, batch = (gradients(model.module, points, tail, objective, before, span_of=way) for way in ways)
    for one, other in zip(rows, batch, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_gradients_leave_nothing_behind(model: LanguageModel) -> None:
    before = model.logits([IDS])[0]
    model.gradients(model.embed(IDS).unsqueeze(0), 1, lambda logits: logits[:, -1, 7])
    assert torch.equal(before, model.logits([IDS])[0])
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def reference(module: torch.nn.Module, layer: torch.nn.Module, values: torch.nn.Module, token: int) -> Tensor:
    """A layer's output [T, size] with the last third, or all, of what `values` gives for a token set to zero."""
    outputs: list[Tensor] = []

    def zero(_: torch.nn.Module, __: object, output: Tensor) -> Tensor:
        output = output.clone()
        share = 1 if values.__class__.__name__ != "FastConv1D" else 3
        output[:, token, -(output.shape[-1] // share) :] = 0
        return output

    hooks = [layer.register_forward_hook(lambda *call: outputs.append(call[2]))]
    hooks += [values.register_forward_hook(zero)] if token >= 0 else []
    try:
        with torch.no_grad():
            module(input_ids=torch.tensor([IDS]), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return (outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0])[0]


def sliding_window() -> HuggingFaceModel:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(KINDS["sliding window"][0]).eval()
    info = type("Info", (), {"heads": 4, "name": "window", "layers": 3, "context_length": 64})
    return HuggingFaceModel(module, None, info, prepare(module), ways=Ways(captured=64))


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2", "sliding window"])
@pytest.mark.parametrize("max_tokens", [1, 20, 1000])
def test_value_zeroing(name: str, max_tokens: int, request: pytest.FixtureRequest, load_model: Load) -> None:
    model = sliding_window() if name == "sliding window" else load_model(request.getfixturevalue(name))
    module, found = model.module, {}
    positions = sum(model.value_zeroing(IDS, max_tokens, found.__setitem__))
    assert positions == len(IDS) * model.info.layers * (1 + len(IDS))
    assert list(found) == list(range(model.info.layers))
    stack = module.transformer.h if name == "tiny_gpt2" else module.model.layers
    for number, layer in enumerate(stack):
        values = layer.attn.c_attn if name == "tiny_gpt2" else layer.self_attn.v_proj
        whole = reference(module, layer, values, -1)
        changes = torch.stack(
            [1 - F.cosine_similarity(reference(module, layer, values, j), whole, dim=-1) for j in range(len(IDS))], 1
        )
        shares = changes.tril() / changes.tril().sum(1, keepdim=True)
        torch.testing.assert_close(found[number][0], shares, atol=1e-3, rtol=1e-2)
        assert not found[number][0].triu(1).any()


def test_a_recurrence_has_no_values() -> None:
    with pytest.raises(NoAttentionError):
        load(str(LSTM), device="cpu").value_zeroing(IDS, 100, lambda *_: None)


def test_weights_that_a_model_gives_itself() -> None:
    module = of_unknown_code(AutoModelForCausalLM.from_config(KINDS["attention inside its layers"][0]).eval())
    found: dict[int, Tensor] = {}
    read = prepare(module)
    assert read is read_eager
    read(module, IDS, [0, 2], [1, 3], found.__setitem__)
    weights = module(input_ids=torch.tensor([IDS]), output_attentions=True).attentions
    for layer in (0, 2):
        torch.testing.assert_close(found[layer], weights[layer][0, :, [1, 3]], atol=1e-6, rtol=0)


def test_values_that_a_model_keeps_to_itself() -> None:
    module = of_unknown_code(AutoModelForCausalLM.from_config(KINDS["attention inside its layers"][0]).eval())
    prepare(module)
    model = HuggingFaceModel(module, None, type("Info", (), {"heads": 4, "name": "another"}), None)
    with pytest.raises(CapabilityError, match="choose another method"):
        list(model.value_zeroing(IDS, 100, lambda *_: None))


def test_a_token_is_not_followed_through_layers_without_attention(tmp_path: Path) -> None:
    model = load(str(save("jamba", tmp_path / "hybrid")), device="cpu")
    with pytest.raises(MixedLayersError, match=r"model 'hybrid' has layers without attention \(0, 2\)"):
        list(model.value_zeroing(IDS, 100, lambda *_: None))
    plan = resolve(AttentionSpec(reduction=Reduction.ROLLOUT), model.info, len(IDS))
    with pytest.raises(MixedLayersError, match="through which no token can be followed; choose another method"):
        attend(model, IDS, plan)


def test_padding_that_counts_for_nothing_is_read_by_its_embedding_nowhere(tmp_path: Path) -> None:
    """Embeddings do not say which of them are padding, without which some models count positions."""
    model = load(str(save("roberta, decoder", tmp_path / "counting")), device="cpu")
    padding = model.module.config.pad_token_id
    ids = [*IDS[:3], padding, *IDS[3:]]
    with pytest.raises(CapabilityError, match="model 'counting' reads its padding token, which the prompt has in it"):
        model.embed_prompt(ids)
    assert model.embed(ids).shape == (len(ids), model.info.hidden_size)  # a baseline's, which nothing else reads
    with pytest.raises(CapabilityError, match="take it out of the prompt"):
        list(model.stream_logits([[*ids, MEAN]], [1], max_tokens=100, max_logits=10))
    assert model.embed_prompt(IDS).shape == (len(IDS), model.info.hidden_size)
    [batch] = model.stream_logits([ids], [1], max_tokens=100, max_logits=10)
    with torch.no_grad():
        plain = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1:]
    torch.testing.assert_close(batch.logits[0], plain, atol=1e-5, rtol=1e-4)


def test_padding_that_is_a_token_like_others_is_embedded(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": IDS[2]}))
    assert load(str(folder), device="cpu").embed_prompt(IDS).shape == (len(IDS), 32)
