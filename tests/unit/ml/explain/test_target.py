import math

import pytest
import torch

from ml.errors import InputError, PromptTooLongError
from ml.explain import target
from ml.spec import (
    Continuation,
    ContrastTarget,
    GenerationTarget,
    NextTokenTarget,
    Prompt,
    Scale,
    Target,
)
from tests.fixtures import tokenizers
from tests.unit.ml.explain.toys import ToyModel, word_tokenizer

MODEL = ToyModel({"good": 3.0, "bad": -3.0})
YES, NO, EOS = 2, 3, 1


def readout(kind, scale=Scale.LOG_PROBABILITY, text="the film was good", model=MODEL):
    encoding = model.tokenizer.encode(Prompt(text=text))
    planned = target.plan(model.tokenizer, model.info, encoding, Target(kind, scale))
    resolving = target.resolve(model, encoding, planned)
    while True:
        try:
            next(resolving)
        except StopIteration as done:
            return done.value


def description(*args, **kwargs):
    return target.describe(MODEL.tokenizer, readout(*args, **kwargs)).description


def test_the_most_likely_token():
    assert readout(NextTokenTarget()).tokens == (YES,)
    assert description(NextTokenTarget()) == 'log p("yes")'
    assert description(NextTokenTarget(), Scale.PROBABILITY) == 'p("yes")'


def test_a_given_token():
    assert readout(NextTokenTarget(text="no good")).tokens == (NO,)
    assert readout(NextTokenTarget(id=5)).tokens == (5,)


def test_a_continuation():
    found = readout(Continuation(text="very good"))
    assert found.tokens == MODEL.tokenizer.ids("very good")
    assert found.appended == found.tokens[:1]
    assert found.positions == 2


def test_the_models_own_generation():
    assert readout(GenerationTarget(3)).tokens == (YES, YES, YES)


def test_a_generation_ends_with_the_text():
    class Ending(ToyModel):
        def logits(self, sequences, tails=None):
            rows = super().logits(sequences, tails)
            rows[0][:, EOS] = 9.0 if len(sequences[0]) >= self.ends_at else -9.0
            return rows

    model = Ending({"good": 3.0})
    model.ends_at = 6
    assert readout(GenerationTarget(9), model=model).tokens == (YES, YES)
    model.ends_at = 0
    assert readout(GenerationTarget(9), model=model).tokens == (EOS,)


def test_a_contrast_begins_where_the_two_part():
    kind = ContrastTarget(Continuation(text="very good"), Continuation(text="very bad film"))
    found = readout(kind)
    assert [found.given, found.tokens, found.rejected] == [
        MODEL.tokenizer.ids(word) for word in ("very", "good", "bad")
    ]
    resolved = target.describe(MODEL.tokenizer, found)
    assert resolved.description == 'log p("good" | … "very") − log p("bad" | … "very")'
    assert resolved.rejected_tokens == (MODEL.tokenizer.token(MODEL.tokenizer.ids("bad")[0]),)


def test_values():
    logits = torch.tensor([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    log_p = torch.log_softmax(logits.double(), -1)
    single = target.Readout((2, 0))
    assert single.values(logits[None]).item() == pytest.approx((log_p[0, 2] + log_p[1, 0]).item(), abs=1e-6)
    probability = target.Readout((2, 0), Scale.PROBABILITY)
    assert probability.values(logits[None]).item() == pytest.approx(math.exp(single.values(logits[None])), abs=1e-12)
    contrast = target.Readout((2,), rejected=(0,))
    assert contrast.values(logits[None, :1]).item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (NextTokenTarget(id=14), "target.next_token.id"),
        (NextTokenTarget(id=-1), "target.next_token.id"),
        (NextTokenTarget(text=" "), "target.next_token.text"),
        (Continuation(token_ids=(1, 99)), "target.continuation.token_ids.ids[1]"),
        (Continuation(text=" "), "target.continuation.text"),
        (
            ContrastTarget(Continuation(text="yes"), Continuation(token_ids=(77,))),
            "target.contrast.rejected.token_ids.ids[0]",
        ),
        (ContrastTarget(Continuation(text=" "), Continuation(text="no")), "target.contrast.chosen.text"),
        (ContrastTarget(Continuation(text="yes"), Continuation(token_ids=(YES,))), "target.contrast.rejected"),
        (ContrastTarget(Continuation(text="very good"), Continuation(text="very")), "target.contrast.rejected"),
        (ContrastTarget(Continuation(text="very"), Continuation(text="very good")), "target.contrast.rejected"),
    ],
)
def test_refused(kind, field):
    with pytest.raises(InputError) as error:
        readout(kind)
    assert error.value.field == field


def test_prompt_and_target_must_fit_the_context():
    model = ToyModel({}, tokenizer=word_tokenizer(context=6))
    assert len(readout(GenerationTarget(3), model=model).tokens) == 3
    with pytest.raises(PromptTooLongError, match="the target has 4 tokens and this model can answer for 3") as error:
        readout(GenerationTarget(4), model=model)
    assert (error.value.field, error.value.tokens, error.value.limit) == ("target.generation.max_tokens", 7, 6)
    with pytest.raises(PromptTooLongError, match="the target has 4 tokens") as error:
        readout(Continuation(text="a b c d"), model=model)
    assert error.value.field == "target.continuation"


def test_a_target_that_goes_on_with_the_last_word_is_spelled_and_told_apart():
    tokenizer = tokenizers.tokenizer("always")
    model = ToyModel({}, tokenizer=tokenizer)
    kind = Continuation(text="ital of")
    found = readout(kind, text="The cap", model=model)
    assert tokenizer.decode(tokenizer.encode(Prompt(text="The cap")).ids + found.tokens).endswith("The capital of")
    assert target.describe(tokenizer, found).tokenized_apart
    whole = readout(Continuation(text=" capital of"), text="The", model=model)
    resolved = target.describe(tokenizer, whole)
    assert (resolved.description, resolved.tokenized_apart) == ('log p(" capital of")', False)
    contrast = readout(ContrastTarget(Continuation(text="ital"), Continuation(text=" of")), text="The cap", model=model)
    assert contrast.apart
