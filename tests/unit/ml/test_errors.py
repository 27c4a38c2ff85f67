"""Errors pass from process to process as they are."""

from __future__ import annotations

import pickle

import pytest

from ml import errors

ERRORS = (
    errors.GlossError("no"),
    errors.InputError("top_k", "no"),
    errors.LayersError([3, 1]),
    errors.PromptTooLongError("prompts[1].text", 600, 512),
    errors.PromptTooLongError("max_tokens", 600, 512, "too many"),
    errors.ReplyTooLargeError("layers", 9, 8),
    errors.CapabilityError("tiny", "cannot"),
    errors.NoAttentionError("tiny"),
    errors.MixedLayersError("tiny", [2]),
    errors.NoChatTemplateError("tiny"),
    errors.OutOfReachError("tiny", "vllm 0.32", "gives no gradients", "choose occlusion"),
    errors.EngineError("tiny", "no"),
    errors.EngineUnavailableError("tiny", "away", 2.5),
    errors.EngineModelChangedError("tiny", 0.5, 0.01),
    errors.ModelLoadError("no"),
    errors.ModelTooLargeError("tiny", 2**31, 2**30, "float32", "on cpu"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_pickled_error_is_the_same(error: errors.GlossError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 -- our own
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_all_of_them_are_tried() -> None:
    def kinds(kind: type[Exception]) -> set[type[Exception]]:
        return {kind}.union(*map(kinds, kind.__subclasses__()))

    assert {type(error) for error in ERRORS} == {
        kind for kind in kinds(errors.GlossError) if kind.__module__ == errors.__name__
    }
