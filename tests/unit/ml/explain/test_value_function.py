import math

import numpy as np
import pytest

from ml.errors import GlossError
from ml.explain.problem import prepare
from ml.explain.target import TargetTokens
from ml.explain.values.checkpoint import Memory, evaluations_of, vector_key
from ml.explain.values.evaluation import Evaluator, chunk_tokens
from ml.explain.values.value_function import ValueFunction
from ml.spec import ExplanationSpec, Features, Occlusion, Prompt, Removal, RemovalKind
from tests.unit.ml.explain.toys import YES_RATHER_THAN_NO, ToyModel, byte_tokenizer

EFFECTS = {"good": 2.0, "bad": -1.5, "film": 0.25}


def value_function(model, text="the film was good", *, removal=None, memory=None, tokens_per_chunk=None, clock=None):
    spec = ExplanationSpec(Prompt(text=text), Occlusion(), YES_RATHER_THAN_NO, removal=removal or Removal())
    problem = prepare(model.tokenizer, model.info, spec)
    evaluator = Evaluator(model, problem.target.tokens, tokens_per_chunk=tokens_per_chunk)
    return ValueFunction(problem.perturbation, evaluator, memory, **({"clock": clock} if clock else {}))


def coalitions(*rows):
    return np.array(rows, dtype=bool)


def every_coalition(features):
    return (np.arange(2**features)[:, None] >> np.arange(features)) % 2 == 1


def test_values_of_coalitions():
    value = value_function(ToyModel(EFFECTS))
    found = value.evaluate(coalitions([1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]))
    assert found == pytest.approx([2.25, 2.0, 0.25, 0.0], abs=1e-12)


def test_a_coalition_is_computed_once():
    model = ToyModel(EFFECTS)
    value = value_function(model)
    rows = coalitions([1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1])
    first = value.evaluate(rows)
    again = value.evaluate(rows)
    assert first.tolist() == again.tolist()
    assert len(model.read) == 2
    assert (value.answered, value.computed, value.memory.evaluations) == (2, 2, 2)
    assert value.memory.tokens_computed == 2 * 4


def test_coalitions_that_lead_to_one_prompt_are_computed_once():
    model = ToyModel(EFFECTS)
    value = value_function(model, "good good", removal=Removal(RemovalKind.DELETE))
    assert value.evaluate(coalitions([1, 0], [0, 1])).tolist() == [2.0, 2.0]
    assert value.evaluate(coalitions([0, 1], [1, 1])).tolist() == [2.0, 4.0]
    assert len(model.read) == 2


def test_an_unknown_word_masked_is_the_same_prompt():
    model = ToyModel(EFFECTS)
    value_function(model, "zebra good").evaluate(coalitions([1, 1], [0, 1]))
    assert len(model.read) == 1


@pytest.mark.parametrize("tokens_per_chunk", [1, 7, 64, 10_000])
def test_chunks_keep_to_the_budget_and_change_nothing(tokens_per_chunk):
    reference = value_function(ToyModel(EFFECTS)).evaluate(every_coalition(4))
    model = ToyModel(EFFECTS)
    for kind in (RemovalKind.MASK_TOKEN, RemovalKind.DELETE):
        value = value_function(model, removal=Removal(kind), tokens_per_chunk=tokens_per_chunk)
        assert value.evaluate(every_coalition(4)) == pytest.approx(reference, abs=1e-9)
    longest_prompt = 4
    assert max(model.batches) <= max(tokens_per_chunk, longest_prompt)


def test_similar_lengths_share_a_chunk():
    model = ToyModel(EFFECTS)
    value_function(model, removal=Removal(RemovalKind.DELETE), tokens_per_chunk=8).evaluate(every_coalition(4))
    real = sum(map(len, model.read))
    assert sum(model.batches) <= 1.3 * real


def test_one_step_a_chunk():
    model = ToyModel(EFFECTS)
    steps = list(value_function(model, tokens_per_chunk=8)(every_coalition(4)))
    assert len(steps) == len(model.batches) == 8


def test_after_the_deadline_the_rest_is_unknown():
    model = ToyModel(EFFECTS)
    value = value_function(model, tokens_per_chunk=8, clock=lambda: len(model.batches))
    value.deadline = 2
    found = value.evaluate(every_coalition(4))
    assert np.isfinite(found).sum() == 2 * 2  # two prompts a chunk, at times 0 and 1
    assert value.out_of_time
    assert value.answered == 4
    assert np.isnan(value.evaluate(every_coalition(4))).sum() == 12  # nor does asking again help


@pytest.mark.parametrize("seconds", range(1, 60, 5))
def test_the_last_chunks_are_as_small_as_the_time_that_is_left(seconds):
    """A token takes a second, a prompt four."""
    model = ToyModel(EFFECTS)
    value = value_function(model, tokens_per_chunk=40, clock=lambda: sum(model.batches))
    value.evaluate(every_coalition(4)[:1])  # by which it learns how long a token takes
    value.deadline = 4 + seconds
    found = value.evaluate(every_coalition(4))
    assert value.deadline <= sum(model.batches) < value.deadline + 4
    assert np.isfinite(found).sum() == 1 + math.ceil(seconds / 4)
    assert set(found[np.isfinite(found)]) <= set(value_function(ToyModel(EFFECTS)).evaluate(every_coalition(4)))


def test_a_deadline_after_the_last_chunk_withholds_nothing():
    model = ToyModel(EFFECTS)
    value = value_function(model, clock=lambda: len(model.batches))
    value.deadline = 1
    assert np.isfinite(value.evaluate(every_coalition(4))).all()
    assert np.isfinite(value.evaluate(every_coalition(4))).all()
    assert not value.out_of_time


def test_memory_survives_packing():
    first = value_function(ToyModel(EFFECTS))
    values = first.evaluate(every_coalition(4))
    first.memory.seconds = 1.5
    packed = first.memory.pack(b"f" * 32)
    memory = Memory.unpack(packed, b"f" * 32, 4)
    assert memory == first.memory
    model = ToyModel(EFFECTS)
    second = value_function(model, memory=memory)
    assert second.evaluate(every_coalition(4)).tolist() == values.tolist()
    assert not model.read
    assert (second.cached, second.computed) == (16, 0)
    assert len(packed) < 16 * 9 + 128


@pytest.mark.parametrize("rows", [0, 2])
def test_what_was_seen_inside_the_model_survives_packing(rows):
    vectors = {
        vector_key(b"r", 0.25): np.arange(4.0),
        vector_key(b"r", 0.25, 2): np.ones(4),
        vector_key(b"v", 7): -np.ones(4),
    }
    values = {b"\xf0": np.arange(1.0 + rows), b"\x00": -np.arange(1.0 + rows)}
    memory = Memory(4, rows, values, vectors, evaluations=9)
    assert memory.findings == 5
    packed = memory.pack(b"f" * 32)
    found = Memory.unpack(packed, b"f" * 32, 4, rows)
    assert (found.rows, found.evaluations, found.findings) == (rows, 9, 5)
    for one, other in ((found.values, values), (found.vectors, vectors)):
        assert {key: list(each) for key, each in one.items()} == {key: list(each) for key, each in other.items()}
    assert [evaluations_of(key) for key in found.vectors if key.startswith(b"v")] == [7]
    assert found.pack(b"f" * 32) == packed
    assert Memory.unpack(packed, b"f" * 32, 4, rows + 1) is None


@pytest.mark.parametrize("data", [b"", b"junk", b"GLOSSVF3" * 40])
def test_damaged_memory_is_forgotten(data):
    assert Memory.unpack(data, b"f" * 32, 4) is None


def test_memory_of_another_problem_is_forgotten():
    memory = Memory(4, values={b"\xf0": np.ones(1)})
    packed = memory.pack(b"f" * 32)
    assert Memory.unpack(packed, b"g" * 32, 4) is None
    assert Memory.unpack(packed, b"f" * 32, 5) is None
    assert Memory.unpack(packed[:-1] + bytes([packed[-1] ^ 1]), b"f" * 32, 4) is None
    assert Memory.unpack(packed, b"f" * 32, 4) == memory


def test_a_model_that_gives_no_number_is_an_error():
    class Broken(ToyModel):
        def log_probability(self, ids, token):
            return math.nan

    with pytest.raises(GlossError, match="toy"):
        value_function(Broken(EFFECTS)).evaluate(every_coalition(4))


def test_a_chunk_is_about_a_second_of_work_whatever_the_model():
    sizes = [chunk_tokens(ToyModel({}, parameters=parameters).info) for parameters in (10**5, 124 * 10**6, 10**11)]
    assert sizes == [2048, 806, 256]


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
@pytest.mark.parametrize("kind", [RemovalKind.DELETE, RemovalKind.TEXT])
def test_batched_equals_single_on_real_models(request, load_model, folder, kind):
    model = load_model(request.getfixturevalue(folder))
    removal = Removal(kind, "it was" if kind is RemovalKind.TEXT else "")
    spec = ExplanationSpec(
        Prompt(text="The film was long, slow and dull"), Occlusion(), features=Features(), removal=removal
    )
    problem = prepare(model.tokenizer, model.info, spec)
    rows = np.random.default_rng(0).random((20, len(problem.features))) < 0.5
    target = TargetTokens((5, 7))
    together = ValueFunction(problem.perturbation, Evaluator(model, target)).evaluate(rows)
    alone = ValueFunction(problem.perturbation, Evaluator(model, target, tokens_per_chunk=1)).evaluate(rows)
    assert together == pytest.approx(alone, abs=1e-5)


def test_byte_tokens_of_a_word_go_together():
    tokenizer = byte_tokenizer(unk=True)
    spec = ExplanationSpec(Prompt(text="Zürich é"), Occlusion())
    problem = prepare(tokenizer, ToyModel({}).info, spec)
    assert [feature.text for feature in problem.features] == ["Zürich", "é"]
