"""What the tests of engines that misbehave share: many prompts, their values, and answers that are changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ml.models.served.model import ServedModel
from tests.fixtures.served import LocalModel

PROMPTS = [(1, 2, index) for index in range(300)]


def values(model: ServedModel | LocalModel, prompts: list[tuple[int, ...]] = PROMPTS) -> Any:
    found = np.full((len(prompts), 1), np.nan)
    for batch in model.stream_log_probabilities(prompts, [[7]], max_tokens=256):
        found[list(batch.indices)] = batch.rows
    return found


def changed(change: Callable[[Any], None]) -> Callable[[Any], Any]:
    def make(data: Any) -> Any:
        data = copy.deepcopy(data)
        change(data)
        return data

    return make


def null(data: Any) -> None:
    data["choices"][0]["logprobs"] = None
