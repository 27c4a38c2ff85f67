"""The benchmark of explanations whose answer is known: its figures, its data, and captum beside Gloss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.answering.figures import Figures, Found
from benchmarks.answering.ours import Way
from benchmarks.answering.pairs import SAMPLE, Pair, read
from ml.spec import InputTimesGradient, IntegratedGradients, KernelShap, Occlusion, Removal, RemovalKind

PAIR = Pair("agreement", "The film was not", " good", " bad", (4, 8))
MASK = Removal(RemovalKind.MASK_TOKEN)


@pytest.mark.parametrize(
    ("attributions", "deciding", "first", "reciprocal"),
    [
        ([3.0, 1.0, -5.0], 0, 1.0, 1.0),
        ([3.0, 1.0, -5.0], 2, 0.0, 1 / 3),
        ([2.0, 2.0, 0.0], 1, 0.5, 0.75),
        ([0.0, 0.0, 0.0], 1, 1 / 3, (1 + 1 / 2 + 1 / 3) / 3),
    ],
)
def test_a_tie_is_broken_at_random(attributions, deciding, first, reciprocal):
    found = Found.of(np.array(attributions), deciding, None)
    assert (found.first, found.reciprocal) == pytest.approx((first, reciprocal))


def test_the_halves_are_apart_and_their_intervals_hold_the_mean():
    figures = Figures("a way", [Found(1.0, 1.0, 2.0), Found(0.0, 0.5)] * 20)
    choosing, held_out = figures.halves
    assert (choosing.mean, held_out.mean, figures.first.mean) == (1.0, 0.0, 0.5)
    assert figures.first.lower < 0.5 < figures.first.upper
    assert figures.seconds == 2.0


def test_the_sample_names_a_word_that_decides():
    pairs = read(SAMPLE)
    assert len(pairs) >= 500
    assert len({pair.kind for pair in pairs[:5]}) == 5
    for pair in pairs:
        start, end = pair.span
        assert pair.prefix[start:end] in pair.prefix.split()
        assert pair.good != pair.bad


@pytest.mark.parametrize(
    ("peer", "method"),
    [
        ("captum FeatureAblation", Occlusion()),
        ("captum ShapleyValues", KernelShap()),
        ("captum IntegratedGradients", IntegratedGradients(steps=50)),
        ("captum InputXGradient", InputTimesGradient()),
    ],
)
def test_captum_finds_the_same(peer, method, tiny_llama, load_model):
    from benchmarks.answering.captum import Captum  # captum takes a second to import

    model = load_model(tiny_llama)
    module = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    way = Way("", method, MASK)
    captum = Captum(module, way.problem(model, PAIR), model.tokenizer.mask_token[0])
    found = dict(captum.ways())[peer]()
    assert found == pytest.approx(way.attributions(model, PAIR), abs=1e-5)
