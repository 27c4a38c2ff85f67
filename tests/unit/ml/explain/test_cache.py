from dataclasses import replace

import numpy as np
import pytest

from ml.explain import Run
from ml.explain.values.cache import ValueCache
from ml.spec import Budget, Continuation, ExplanationSpec, Lime, Occlusion, Prompt, Rows, Scale, Target, Unit
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyModel

TEXT = "the film was not good and the film was bad"


def toy():
    return ToyModel({"good": 2.0, "bad": -1.5}, {("not", "good"): -3.0})


def spec(method=None, **parts):
    return ExplanationSpec(Prompt(text=TEXT), method or Occlusion(), **{"target": YES_RATHER_THAN_NO, **parts})


def last(run):
    *_, update = run
    return update.result


def test_it_forgets_what_was_not_used_for_longest():
    cache = ValueCache(max_bytes=2 * 256)
    cache.put(b"a", np.array([1.0]))
    cache.put(b"b", np.array([2.0]))
    assert cache.get(b"a") == [1.0]
    cache.put(b"c", np.array([3.0]))
    assert (cache.get(b"a"), cache.get(b"b"), cache.get(b"c"), len(cache)) == ([1.0], None, [3.0], 2)


def test_tokens_of_a_target_take_their_share_of_its_bytes():
    cache = ValueCache(max_bytes=10 * 256)
    for key in range(100):
        cache.put(bytes([key]), np.arange(100.0) + key)
    assert len(cache) == 2
    assert cache.get(bytes([99])).tolist() == [each + 99.0 for each in range(100)]
    for _ in range(5):
        cache.put(bytes([99]), np.zeros(1))
    assert len(cache) == 2
    cache.put(b"another", np.zeros(1))
    assert len(cache) == 3


def test_a_second_explanation_of_a_prompt_computes_nothing():
    cache = ValueCache()
    first = last(Run(toy(), spec(), cache=cache))
    model = toy()
    second = last(Run(model, spec(), cache=cache))
    assert not model.read
    assert second.cost.evaluations == second.cost.tokens_computed == 0
    assert second.cost.cache_hits == first.cost.evaluations + first.cost.cache_hits
    assert replace(second, cost=first.cost) == first


def test_a_write_only_view_finds_nothing_and_keeps_what_is_new():
    cache = ValueCache()
    alone = last(Run(toy(), spec()))
    for _ in range(2):
        anew = last(Run(toy(), spec(), cache=cache.write_only()))
        assert replace(anew, cost=replace(anew.cost, duration=alone.cost.duration)) == alone
    assert last(Run(toy(), spec(), cache=cache)).cost.evaluations == 0


def test_methods_share_values():
    cache = ValueCache()
    last(Run(toy(), spec(), cache=cache))
    task = spec(Lime(), budget=Budget(max_evaluations=50))
    alone, together = last(Run(toy(), task)), last(Run(toy(), task, cache=cache))
    assert together.cost.evaluations < alone.cost.evaluations
    assert replace(together, cost=alone.cost) == alone


def test_all_that_is_made_of_the_same_tokens_shares_values():
    """Another scale, and the target's rows, whatever they are."""
    cache, target = ValueCache(), Target(Continuation(text="yes the good . no"))
    last(Run(toy(), spec(target=target), cache=cache))
    for parts in (
        {"target": replace(target, scale=Scale.PROBABILITY)},
        {"target": target, "rows": Rows(Unit.WORD)},
        {"target": target, "rows": Rows(spans=((5, 13),))},
    ):
        alone, together = last(Run(toy(), spec(**parts))), last(Run(toy(), spec(**parts), cache=cache))
        assert together.cost.evaluations == 0
        assert replace(together, cost=alone.cost) == alone


def test_another_target_or_model_has_values_of_its_own():
    cache = ValueCache()
    last(Run(toy(), spec(), cache=cache))
    other = toy()
    other.info = replace(other.info, digest="e" * 64)
    elsewhere = Target(Continuation(text="no"))
    for model, task in ((toy(), spec(target=elsewhere)), (other, spec())):
        assert last(Run(model, task, cache=cache)).cost.evaluations == last(Run(toy(), task)).cost.evaluations


def test_another_namespace_has_values_of_its_own():
    cache = ValueCache()
    alone = last(Run(toy(), spec()))
    for namespace in ("a", "b", ""):
        apart = last(Run(toy(), spec(), cache=cache, namespace=namespace))
        assert apart.cost.evaluations == alone.cost.evaluations
        again = last(Run(toy(), spec(), cache=cache, namespace=namespace))
        assert again.cost.evaluations == 0
        assert replace(again, cost=alone.cost) == replace(apart, cost=alone.cost) == alone


def test_a_cache_without_room_changes_nothing():
    alone = last(Run(toy(), spec()))
    crowded = last(Run(toy(), spec(), cache=ValueCache(max_bytes=256)))
    assert crowded == replace(alone, cost=replace(alone.cost, duration=crowded.cost.duration))


def test_real_values_are_the_same_within_rounding(tiny_llama, load_model):
    model, cache = load_model(tiny_llama), ValueCache()
    task = ExplanationSpec(Prompt(text="The film was long, slow and dull"), Lime(), budget=Budget(max_evaluations=60))
    last(Run(model, replace(task, method=Occlusion()), cache=cache))
    alone, together = last(Run(model, task)), last(Run(model, task, cache=cache))
    for ours, theirs in zip(together.attributions, alone.attributions, strict=True):
        assert ours.attribution == pytest.approx(theirs.attribution, abs=1e-5)
