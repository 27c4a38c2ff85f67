import numpy as np
import pytest

from ml.encoding import Encoding
from ml.errors import InputError
from ml.explain.features import segment
from ml.explain.removal import perturbation
from ml.models.base import MEAN
from ml.result import ResolvedRemoval
from ml.spec import Features, Prompt, Removal, RemovalKind
from tests.unit.ml.explain.toys import byte_tokenizer, word_tokenizer

TEXT = "the film was good"
BPE = byte_tokenizer(unk=True)
NO_MASK = byte_tokenizer(unk=False)


def remove(removal, present, text=TEXT, tokenizer=BPE):
    encoding = tokenizer.encode(Prompt(text=text))
    perturbed = perturbation(tokenizer, encoding, segment(encoding, Features()), removal)
    return perturbed, tokenizer.decode(perturbed(np.array(present, dtype=bool)).tolist())


@pytest.mark.parametrize("removal", [Removal(), Removal(RemovalKind.DELETE), Removal(RemovalKind.TEXT, "it")])
def test_nothing_removed_is_the_prompt_itself(removal):
    encoding = BPE.encode(Prompt(text=TEXT))
    perturbed, _ = remove(removal, [1, 1, 1, 1])
    assert perturbed(np.ones(4, dtype=bool)).tolist() == list(encoding.ids)


def test_mask_token_for_each_token():
    perturbed, text = remove(Removal(), [1, 0, 1, 1])
    tokens = len(BPE.ids(" film"))
    assert text == "the" + "<unk>" * tokens + " was good"
    assert perturbed.resolved == ResolvedRemoval(RemovalKind.MASK_TOKEN, "<unk>")
    assert perturbed.longest == len(perturbed.ids)


def test_delete():
    perturbed, text = remove(Removal(RemovalKind.DELETE), [1, 0, 1, 0])
    assert text == "the was"
    assert perturbed.longest == len(perturbed.ids)


def test_delete_is_the_default_without_a_mask_token():
    perturbed, text = remove(Removal(), [0, 1, 1, 0], tokenizer=NO_MASK)
    assert text == " film was"
    assert perturbed.resolved == ResolvedRemoval(RemovalKind.DELETE, "")


@pytest.mark.parametrize(
    ("removal", "unchanged"),
    [
        (Removal(), [1, 3]),
        (Removal(RemovalKind.DELETE), []),
        (Removal(RemovalKind.TEXT, "film"), [0]),
        (Removal(RemovalKind.TEXT_AND_DELETE, "film"), []),
    ],
)
def test_features_that_are_what_removal_makes_of_them(removal, unchanged):
    perturbed, _ = remove(removal, [1, 1, 1, 1], text="film zyx the wvu", tokenizer=word_tokenizer())
    assert perturbed.unchanged == unchanged


@pytest.mark.parametrize(("text", "written"), [("", "*"), ("it", "it")])
def test_text_and_delete_is_both(text, written):
    removal = Removal(RemovalKind.TEXT_AND_DELETE, text)
    perturbed, first = remove(removal, [1, 0, 1, 1])
    both = [BPE.decode(ids.tolist()) for ids in perturbed.variants(np.array([1, 0, 1, 1], dtype=bool))]
    assert both == [first, "the was good"]
    assert first == f"the {written} was good"
    assert perturbed.resolved == ResolvedRemoval(RemovalKind.TEXT_AND_DELETE, written)
    assert (perturbed.removals, perturbed.keeps_positions) == (2, False)
    alone, _ = remove(Removal(RemovalKind.TEXT, written), [1, 0, 1, 1])
    assert perturbed.identity != alone.identity


def test_deleting_everything_leaves_the_end_of_text():
    _, text = remove(Removal(RemovalKind.DELETE), [0, 0, 0, 0])
    assert text == "<|endoftext|>"


def test_deleting_everything_keeps_special_tokens():
    encoding = Encoding("hi", (9, 1), (None, (0, 2)), ((0, 2),))
    perturbed = perturbation(BPE, encoding, segment(encoding, Features()), Removal(RemovalKind.DELETE))
    assert perturbed(np.zeros(1, dtype=bool)).tolist() == [9]


def test_the_mean_embedding_takes_each_token_s_place():
    perturbed, _ = remove(Removal(), [1, 1, 1, 1])
    tokens = len(BPE.ids(" film"))
    removed, _ = remove(Removal(RemovalKind.MEAN_EMBEDDING), [1, 1, 1, 1], tokenizer=NO_MASK)
    ids = removed(np.array([1, 0, 1, 1], dtype=bool)).tolist()
    assert ids.count(MEAN) == tokens
    assert len(ids) == len(perturbed.ids)
    assert removed.keeps_positions
    assert removed.resolved == ResolvedRemoval(RemovalKind.MEAN_EMBEDDING, "")


def test_text_keeps_the_leading_space():
    perturbed, text = remove(Removal(RemovalKind.TEXT, "some thing"), [0, 1, 0, 1])
    assert text == "some thing film some thing good"
    everything = perturbed(np.zeros(4, dtype=bool))
    assert perturbed.longest >= len(everything)


def test_text_with_its_own_space_gets_no_second_one():
    _, text = remove(Removal(RemovalKind.TEXT, " it"), [1, 0, 1, 1])
    assert text == "the it was good"


def test_text_as_long_as_the_feature():
    words = word_tokenizer()
    _, text = remove(Removal(RemovalKind.TEXT, "bad"), [1, 0, 1, 1], tokenizer=words)
    assert text == "the bad was good"


def test_refused():
    with pytest.raises(InputError) as error:
        remove(Removal(RemovalKind.MASK_TOKEN), [1, 1, 1, 1], tokenizer=NO_MASK)
    assert error.value.field == "removal.kind"
    with pytest.raises(InputError) as error:
        remove(Removal(RemovalKind.TEXT, " "), [1, 1, 1, 1], tokenizer=word_tokenizer())
    assert error.value.field == "removal.text"
