import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from ml.errors import InputError, PromptTooLongError
from ml.explain import Run, prepare, target, target_text
from ml.explain.trust import doubts
from ml.spec import (
    Continuation,
    ContrastTarget,
    ExplanationSpec,
    Features,
    GenerationTarget,
    NextTokenTarget,
    Occlusion,
    Prompt,
    Scale,
    Target,
    Unit,
)
from tests.fixtures import tokenizers
from tests.unit.ml.explain.toys import ToyModel, byte_tokenizer, word_tokenizer

MODEL = ToyModel({"good": 3.0, "bad": -3.0})
YES, NO, EOS = 2, 3, 1


def tokens(kind, scale=Scale.LOG_PROBABILITY, text="the film was good", model=MODEL):
    encoding = model.tokenizer.encode(Prompt(text=text))
    planned = target.plan(model.tokenizer, model.info, encoding, Target(kind, scale))
    resolving = target.resolve(model, encoding, planned)
    while True:
        try:
            next(resolving)
        except StopIteration as done:
            return done.value


def description(*args, **kwargs):
    return target_text.describe(MODEL.tokenizer, tokens(*args, **kwargs)).description


def test_the_most_likely_token():
    assert tokens(NextTokenTarget()).tokens == (YES,)
    assert description(NextTokenTarget()) == 'log p("yes")'
    assert description(NextTokenTarget(), Scale.PROBABILITY) == 'p("yes")'


def test_a_given_token():
    assert tokens(NextTokenTarget(text="no good")).tokens == (NO,)
    assert tokens(NextTokenTarget(id=5)).tokens == (5,)


def test_a_continuation():
    found = tokens(Continuation(text="very good"))
    assert found.tokens == MODEL.tokenizer.ids("very good")
    assert found.appended == found.tokens[:1]
    assert found.positions == 2


def test_the_models_own_generation():
    assert tokens(GenerationTarget(3)).tokens == (YES, YES, YES)


def test_a_generation_ends_with_the_text():
    class Ending(ToyModel):
        def logits(self, ids):
            logits = super().logits(ids)
            logits[EOS] = 9.0 if len(ids) >= self.ends_at else -9.0
            return logits

    model = Ending({"good": 3.0})
    model.ends_at = 6
    assert tokens(GenerationTarget(9), model=model).tokens == (YES, YES)
    model.ends_at = 0
    assert tokens(GenerationTarget(9), model=model).tokens == (EOS,)


class Preferring(ToyModel):
    """Finds some tokens the most likely, by how many tokens it has read."""

    preferred: ClassVar[dict[int, int]] = {}

    def logits(self, ids):
        logits = super().logits(ids)
        for length, token in self.preferred.items():
            logits[token] += 9.0 * (len(ids) == length)
        return logits


UNK = 0


@pytest.mark.parametrize(
    ("kind", "preferred", "expected", "skipped"),
    [
        (NextTokenTarget(), {4: UNK}, (YES,), UNK),
        (NextTokenTarget(), {4: EOS}, (EOS,), None),
        (NextTokenTarget(id=UNK), {4: UNK}, (UNK,), None),
        (GenerationTarget(3), {}, (YES, YES, YES), None),
        (GenerationTarget(3), {4: UNK}, (YES, YES, YES), UNK),
        (GenerationTarget(3), {5: UNK, 6: UNK}, (YES, YES, YES), UNK),
        (GenerationTarget(3), {6: UNK}, (YES, YES, YES), UNK),
        (GenerationTarget(9), {5: UNK, 6: EOS}, (YES, YES), UNK),
    ],
)
def test_a_model_chooses_no_mask_and_the_result_says_so(kind, preferred, expected, skipped):
    model = Preferring({"good": 3.0})
    model.preferred = preferred
    found = tokens(kind, model=model)
    assert found.tokens == expected
    token = target_text.describe(model.tokenizer, found).skipped_token
    assert token is None if skipped is None else (token.id, token.text) == (skipped, "<unk>")


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_lstm"])
def test_the_default_target_of_a_model_is_its_likeliest_token_but_masks(folder, request, load_model):
    model = load_model(request.getfixturevalue(folder))
    ids = model.tokenizer.encode(Prompt(text="The film was")).ids
    first, *others = model.logits([ids])[0][-1].argsort(descending=True).tolist()
    assert next(iter(model.generate_greedily(ids, 1))) == first
    assert next(iter(model.generate_greedily(ids, 1, banned=(first,)))) == others[0]
    assert next(iter(model.generate_greedily(ids, 1, banned=(first, others[0])))) == others[1]


CAPITAL = "The capital of France is"


@pytest.mark.parametrize("likelier", ["P", " P"])
@pytest.mark.parametrize(
    "kind",
    [
        NextTokenTarget(text="Paris"),
        Continuation(text="Paris."),
        ContrastTarget(Continuation(text="Paris"), Continuation(text="France")),
    ],
)
def test_a_target_without_its_space_is_doubted_where_the_model_expects_one(kind, likelier):
    tokenizer = byte_tokenizer(unk=True)
    model = Preferring({}, tokenizer=tokenizer)
    encoding = tokenizer.encode(Prompt(text=CAPITAL))
    meant, given = (tokenizer.continuation(encoding, Continuation(text=each)).ids[0] for each in (" Paris", "Paris"))
    model.preferred = {len(encoding.ids): given if likelier == "P" else meant}
    found = tokens(kind, text=CAPITAL, model=model)
    reasons = [reason for _, reason in doubts.of_question(tokenizer, encoding, found)]
    assert found.spaced == ((meant,) if likelier == " P" else ())
    assert [json.dumps(tokenizer.token_text(meant)) in reason for reason in reasons] == [True] * (likelier == " P")


@pytest.mark.parametrize("others", [" London", "London"])
@pytest.mark.parametrize("swapped", [False, True])
def test_each_side_of_a_contrast_is_doubted_for_itself(others, swapped):
    tokenizer = byte_tokenizer(unk=True)
    encoding = tokenizer.encode(Prompt(text=CAPITAL))
    meant = tokenizer.continuation(encoding, Continuation(text=" Paris")).ids[0]
    model = Preferring({}, tokenizer=tokenizer)
    model.preferred = {len(encoding.ids): meant}
    sides = [Continuation(text="Paris"), Continuation(text=others)]
    found = tokens(ContrastTarget(*(reversed(sides) if swapped else sides)), text=CAPITAL, model=model)
    assert found.spaced == (meant,)


def test_both_sides_of_a_contrast_may_lack_their_spaces():
    tokenizer = byte_tokenizer(unk=True)
    encoding = tokenizer.encode(Prompt(text=CAPITAL))
    spaced = tuple(tokenizer.continuation(encoding, Continuation(text=each)).ids[0] for each in (" Paris", " London"))
    found = tokens(NextTokenTarget(text="Paris"), text=CAPITAL, model=ToyModel({}, tokenizer=tokenizer))
    doubted = replace(found, spaced=spaced)
    [(_, reason)] = doubts.of_question(tokenizer, encoding, doubted)
    assert all(json.dumps(tokenizer.token_text(each)) in reason for each in spaced)


@pytest.mark.parametrize("text", [" Paris", "\nParis"])
def test_a_target_with_a_space_is_not_doubted(text):
    model = ToyModel({}, tokenizer=byte_tokenizer(unk=True))
    assert tokens(NextTokenTarget(text=text), text=CAPITAL, model=model).spaced == ()


def test_words_without_spaces_of_their_own_are_not_doubted():
    assert tokens(NextTokenTarget(text="good")).spaced == ()


@pytest.mark.parametrize(
    ("make", "text", "doubted"),
    [
        (byte_tokenizer, f"{CAPITAL} ", True),
        (byte_tokenizer, f"{CAPITAL}  ", True),
        (byte_tokenizer, CAPITAL, False),
        (byte_tokenizer, f"{CAPITAL}\n", False),
        (lambda unk: word_tokenizer(), "the film was ", False),
    ],
)
def test_a_prompt_that_ends_in_a_space_of_the_next_word_is_doubted(make, text, doubted):
    model = ToyModel({}, tokenizer=make(unk=True))
    found = tokens(NextTokenTarget(id=YES), text=text, model=model)
    reasons = [*doubts.of_question(model.tokenizer, model.tokenizer.encode(Prompt(text=text)), found)]
    assert ["ends in a space" in reason for _, reason in reasons] == [True] * doubted


def test_a_contrast_begins_where_the_two_part():
    kind = ContrastTarget(Continuation(text="very good"), Continuation(text="very bad film"))
    found = tokens(kind)
    assert [found.given, found.tokens, found.rejected] == [
        MODEL.tokenizer.ids(word) for word in ("very", "good", "bad")
    ]
    resolved = target_text.describe(MODEL.tokenizer, found)
    assert resolved.description == 'log p("good" | … "very") − log p("bad" | … "very")'
    assert resolved.rejected_tokens == (MODEL.tokenizer.token(MODEL.tokenizer.ids("bad")[0]),)


def test_values():
    log_p = np.log([[0.25, 0.5], [0.75, 0.125]])
    assert target.TargetTokens((2, 0)).objective.values(log_p) == pytest.approx(log_p.sum(axis=1))
    probability = target.TargetTokens((2, 0), Scale.PROBABILITY)
    assert probability.objective.values(log_p) == pytest.approx([0.125, 0.09375])
    contrast = target.TargetTokens((2,), rejected=(0,))
    assert contrast.objective.continuations == ((2,), (0,))
    assert contrast.objective.values(log_p) == pytest.approx(np.log([0.5, 6]))


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
    ],
)
def test_refused(kind, field):
    with pytest.raises(InputError) as error:
        tokens(kind)
    assert error.value.field == field


CONTINUED = ContrastTarget(Continuation(text="very"), Continuation(text="very good film"))
CONTINUING = ContrastTarget(CONTINUED.rejected, CONTINUED.chosen)


@pytest.mark.parametrize(
    ("kind", "description"),
    [
        (CONTINUED, 'log(1 − p("good film" | … "very")) − log p("good film" | … "very")'),
        (CONTINUING, 'log p("good film" | … "very") − log(1 − p("good film" | … "very"))'),
    ],
)
def test_a_contrast_of_which_one_side_continues_the_other_is_about_the_rest(kind, description):
    found = tokens(kind)
    rest, shared = MODEL.tokenizer.ids("good film"), MODEL.tokenizer.ids("very")
    assert (found.given, found.appended, found.positions) == (shared, shared + rest[:1], 2)
    resolved = target_text.describe(MODEL.tokenizer, found)
    assert (resolved.description, resolved.prefix_contrast) == (description, True)
    assert [token.id for token in resolved.shared_tokens] == list(shared)
    longer, shorter = resolved.tokens, resolved.rejected_tokens
    if kind is CONTINUED:
        longer, shorter = shorter, longer
    assert ([token.id for token in longer], shorter) == (list(rest), ())


@pytest.mark.parametrize("p", [1e-300, 1e-9, 0.2, 0.5, 0.8, 1 - 1e-9, 1.0])
def test_its_sign_says_whether_to_stop_or_to_go_on_is_likelier(p):
    stops, goes_on = (tokens(kind).objective.values(np.log([[p, 1.0]])).item() for kind in (CONTINUED, CONTINUING))
    assert stops == -goes_on
    assert np.isfinite(stops)
    assert np.sign(stops) == np.sign((1 - p) - p)
    if p < 1:
        assert goes_on == pytest.approx(np.log(p) - np.log1p(-p), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
@pytest.mark.parametrize("chosen", ["longer", "shorter"])
def test_a_model_s_choice_to_stop_or_to_go_on(folder, chosen, request, load_model):
    model = load_model(request.getfixturevalue(folder))
    sides = Continuation(text=" was long and dull"), Continuation(text=" was long")
    kind = ContrastTarget(*sides) if chosen == "longer" else ContrastTarget(*sides[::-1])
    *_, update = Run(model, ExplanationSpec(Prompt(text="The film"), Occlusion(), Target(kind)))
    found = update.result.target
    ids, rest = [[token.id for token in each] for each in (update.result.tokens, found.tokens or found.rejected_tokens)]
    ids += [token.id for token in found.shared_tokens]
    p = 1.0
    for token in rest:
        p *= model.logits([ids])[0][-1].double().softmax(-1)[token].item()
        ids.append(token)
    goes_on = np.log(p) - np.log1p(-p)
    assert update.result.full_value == pytest.approx(goes_on if chosen == "longer" else -goes_on, abs=1e-4)
    assert all(np.isfinite(each.attribution) for each in update.result.attributions)


def test_prompt_and_target_must_fit_the_context():
    model = ToyModel({"good": 3.0}, tokenizer=word_tokenizer(context=6))
    assert len(tokens(GenerationTarget(3), model=model).tokens) == 3
    with pytest.raises(PromptTooLongError, match="the target has 4 tokens and this model can answer for 3") as error:
        tokens(GenerationTarget(4), model=model)
    assert (error.value.field, error.value.tokens, error.value.limit) == ("target.generation.max_tokens", 7, 6)
    with pytest.raises(PromptTooLongError, match="the target has 4 tokens") as error:
        tokens(Continuation(text="a b c d"), model=model)
    assert error.value.field == "target.continuation"


CONTINUED_WORD = [
    (NextTokenTarget(text="ital of"), 'log p(" capital")'),
    (Continuation(text="ital of"), 'log p(" capital of")'),
    (ContrastTarget(Continuation(text="ital of"), Continuation(text=" of")), 'log p(" capital") − log p(" cap")'),
    (ContrastTarget(Continuation(text=" of"), Continuation(text="ital of")), 'log p(" cap") − log p(" capital")'),
]


@pytest.mark.parametrize("scheme", ["gpt2", "llama3", "first", "always", "never", "legacy", "gemma"])
@pytest.mark.parametrize(("kind", "description"), CONTINUED_WORD)
def test_a_target_that_goes_on_with_the_last_word_begins_with_its_token(scheme, kind, description):
    model = ToyModel({}, tokenizer=tokenizers.tokenizer(scheme))
    asked = ExplanationSpec(Prompt(text="The old cap"), Occlusion(), Target(kind))
    problem = prepare(model.tokenizer, model.info, asked)
    assert [feature.text for feature in problem.features] == ["The", "old"]
    assert problem.encoding.ids == model.tokenizer.encode(Prompt(text="The old")).ids
    *_, update = Run(model, asked)
    found = update.result
    first = description.split('"')[1]
    shown = [found.target.tokens[0].text, *(token.text for token in found.target.rejected_tokens)]
    assert first in shown or first.startswith(shown[0])
    assert (found.target.tokenized_apart, found.target.overlap) == (True, " cap")
    assert any('" cap" is measured with the target' in reason for reason in found.trust.reasons)


@pytest.mark.parametrize("scheme", ["gpt2", "first", "gemma"])
def test_a_space_at_the_prompts_end_is_the_targets_and_no_reason_for_doubt(scheme):
    model = ToyModel({}, tokenizer=tokenizers.tokenizer(scheme))
    for prompt, text in (("The man was ", "the"), ("The man was", " the")):
        *_, update = Run(model, ExplanationSpec(Prompt(text=prompt), Occlusion(), Target(Continuation(text=text))))
        assert update.result.target.description == 'log p(" the")'
        assert update.result.target.overlap == prompt[len("The man was") :]
        assert not any("inside a token" in reason or "space" in reason for reason in update.result.trust.reasons)


@pytest.mark.parametrize(
    ("prompt", "features", "field"),
    [
        ("The old cap", Features(spans=((4, 7), (8, 11))), "features.spans[1]"),
        ("The old cap", Features(within=(8, 11)), "features.within"),
        (" cap", Features(unit=Unit.WORD), "features"),
        (" cap", Features(unit=Unit.TOKEN), "features"),
    ],
)
def test_features_in_the_targets_token_are_refused_with_the_reason(prompt, features, field):
    model = ToyModel({}, tokenizer=tokenizers.tokenizer("first"))
    asked = ExplanationSpec(Prompt(text=prompt), Occlusion(), Target(Continuation(text="ital")), features)
    with pytest.raises(InputError, match="there the target's first token begins") as error:
        prepare(model.tokenizer, model.info, asked)
    assert error.value.field == field


def test_a_part_without_a_word_is_refused_without_that_reason():
    model = ToyModel({}, tokenizer=tokenizers.tokenizer("first"))
    asked = ExplanationSpec(
        Prompt(text="The old cap"), Occlusion(), Target(Continuation(text=" of")), Features(within=(5, 6))
    )
    with pytest.raises(InputError, match=r"begins there; there is nothing to explain$"):
        prepare(model.tokenizer, model.info, asked)
