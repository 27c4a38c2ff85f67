import numpy as np
import pytest
import torch

from ml.explain import Run
from ml.explain.explainers.occlusion import OcclusionExplainer
from ml.result import StopReason
from ml.spec import (
    ExplanationSpec,
    Features,
    NextTokenTarget,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Target,
    Unit,
)
from tests.unit.ml.explain.toys import additive, conjunction, estimates


def occlude(game, **method):
    return estimates(OcclusionExplainer(game.features, Occlusion(**method)), game)[-1]


def test_an_additive_game_gives_back_its_terms():
    estimate = occlude(additive([3.0, -1.0, 0.0, 0.5]))
    assert estimate.attributions == pytest.approx([3.0, -1.0, 0.0, 0.5])
    assert estimate.standard_errors.tolist() == [0, 0, 0, 0]
    assert (estimate.stop, estimate.converged) == (StopReason.COMPLETE, True)


def test_both_sides_of_a_conjunction_get_it_all():
    assert occlude(conjunction(3, 0, 2)).attributions.tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("features", "window", "stride", "starts"),
    [
        (5, 1, 1, [0, 1, 2, 3, 4]),
        (5, 2, 1, [0, 1, 2, 3]),
        (5, 2, 2, [0, 2, 4]),
        (6, 3, 2, [0, 2, 4]),
        (3, 9, 9, [0]),
        (1, 1, 1, [0]),
    ],
)
def test_windows(features, window, stride, starts):
    windows = OcclusionExplainer(features, Occlusion(window, stride)).windows()
    assert [int(row.argmax()) for row in windows] == starts
    assert (windows.sum(axis=1) <= window).all()
    assert windows.any(axis=0).all()
    assert windows[-1, -1]


def test_a_feature_gets_the_mean_over_its_windows():
    effects = [1.0, 2.0, 4.0]
    assert occlude(additive(effects), window=2).attributions == pytest.approx([3.0, (3 + 6) / 2, 6.0])


def test_what_is_planned_is_what_is_asked():
    game = additive([1.0] * 7)
    explainer = OcclusionExplainer(7, Occlusion(3, 2))
    estimates(explainer, game)
    assert game.asked == explainer.max_evaluations == 4


def test_without_time_the_rest_is_unknown():
    game = additive([3.0, -1.0, 0.5])
    game._patience = 3  # the whole prompt and two windows
    estimate = occlude(game)
    assert estimate.attributions == pytest.approx([3.0, -1.0, 0.0])
    assert estimate.standard_errors.tolist() == [0, 0, np.inf]
    assert (estimate.stop, estimate.converged) == (StopReason.DURATION, False)


@pytest.mark.filterwarnings("ignore")  # captum's own
@pytest.mark.parametrize("unit", [Unit.TOKEN, Unit.WORD])
def test_agrees_with_captum(tiny_llama, load_model, unit):
    from captum.attr import FeatureAblation

    model = load_model(tiny_llama)
    spec = ExplanationSpec(
        Prompt(text="The capital of Italy is Rome, and the capital"),
        Occlusion(),
        Target(NextTokenTarget()),
        Features(unit),
        Removal(RemovalKind.MASK_TOKEN),
        quality=Quality(False),
    )
    run = Run(model, spec)
    *_, last = run
    assert last.result is not None
    target = last.result.target.tokens[0].id

    def log_probability(ids):
        logits = model.logits(ids.tolist())
        return torch.stack([torch.log_softmax(rows[-1], -1)[target] for rows in logits])

    ids = torch.tensor([run.problem.encoding.ids])
    groups = torch.tensor([run.problem.perturbation.owner])
    groups[groups < 0] = len(run.problem.features)  # captum removes those too; nobody looks
    ablation = FeatureAblation(log_probability).attribute(
        ids, baselines=model.tokenizer.mask_token[0], feature_mask=groups
    )
    for attribution in last.result.attributions:
        assert attribution.attribution == pytest.approx(ablation[0, attribution.positions[0]].item(), abs=1e-4)
