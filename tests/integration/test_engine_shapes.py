"""The engine of the tests answers as vLLM does: its answers have the shapes of those that were recorded from one.

``VLLM_RECORD=1 make test-engine`` records them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks import vllm
from tests.fixtures.engine import TestEngine, saved
from tests.fixtures.models import byte_level
from tests.fixtures.served import LONGEST, SmallModel

RECORDED = Path(__file__).parent / "recorded/vllm-0.32.json"
SHIPPED = Path(__file__).parents[2] / "ml/pretrained/transformer"
NAME = "transformer"

IDS = [0, 5, 6, 7]
BY_ID = {"return_tokens_as_token_ids": True}

REQUESTS: dict[str, dict[str, Any]] = {
    "given ids": {"prompt": [IDS, IDS[:2]], "max_tokens": 1, "logprobs": 2, "logprob_token_ids": [3, 4], **BY_ID},
    "a prompt's own tokens": {"prompt": [IDS], "max_tokens": 1, "prompt_logprobs": 2, **BY_ID},
    "both": {
        "prompt": [IDS],
        "max_tokens": 1,
        "prompt_logprobs": 0,
        "logprobs": 1,
        "logprob_token_ids": [3],
        **BY_ID,
    },
    "echo": {"prompt": [IDS], "max_tokens": 0, "echo": True, "logprobs": 1, **BY_ID},
    "the most likely": {"prompt": [IDS], "max_tokens": 1, "logprobs": 3, **BY_ID},
    "a text": {"prompt": "The capital", "max_tokens": 1, "return_token_ids": True},
    "a generation": {"prompt": IDS, "max_tokens": 3, "return_token_ids": True, "logit_bias": {"5": -100}},
    "a stream": {"prompt": IDS, "max_tokens": 3, "logprobs": 2, "stream": True, **BY_ID},
    "more than it lists": {"prompt": [IDS], "max_tokens": 1, "logprobs": 51},
    "more given ids than it takes": {
        "prompt": [IDS],
        "max_tokens": 1,
        "logprobs": 1,
        "logprob_token_ids": list(range(129)),
    },
    "a prompt that is too long": {"prompt": [[5] * 5000], "max_tokens": 1},
    "an id that is none": {"prompt": [[10**6]], "max_tokens": 1},
    "another model": {"model": "other", "prompt": [IDS], "max_tokens": 1},
}


def answer(url: str, asked: dict[str, Any]) -> dict[str, Any]:
    """Status and answer, or events."""
    reply = httpx2.post(f"{url}/v1/completions", json={"model": NAME, "temperature": 0, **asked}, timeout=120)
    if asked.get("stream"):
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
        return {"status": reply.status_code, "events": [json.loads(each) for each in events[:-1]], "last": events[-1]}
    return {"status": reply.status_code, "answer": reply.json()}


def shape(found: Any, name: str = "") -> Any:
    """Fields and types, without what they hold. Maps by token are as their first entry."""
    if isinstance(found, dict):
        if name in {"top_logprobs", "prompt_logprobs"} or all(key.isdigit() for key in found):
            return {"by token": shape(next(iter(found.values())))} if found else {}
        # What is null may be anything, and is left out by the one where the other has it.
        return {key: shape(value, key) for key, value in sorted(found.items()) if value is not None}
    if isinstance(found, list):
        return [shape(found[-1], name)] if found else []
    return "number" if isinstance(found, int | float) else type(found).__name__


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The engine of the tests."""
    tokenizer = byte_level(unknown="<unk>")
    folder = saved(tokenizer, tmp_path_factory.mktemp("tokenizer"))
    engine = TestEngine(
        tokenizer, SmallModel(len(tokenizer)), name=NAME, origin=folder, longest=LONGEST, max_logprobs=50
    )
    yield engine.url
    engine.close()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM."""
    with vllm.serving(SHIPPED, tmp_path_factory.mktemp("vllm") / "log") as url:
        yield url


def check(url: str, name: str) -> None:
    found, recorded = answer(url, REQUESTS[name]), json.loads(RECORDED.read_text())[name]
    assert found["status"] == recorded["status"]
    if found["status"] == 200:
        assert shape(found) == shape(recorded)
    else:
        assert found["answer"]["error"].keys() == recorded["answer"]["error"].keys()


@pytest.mark.parametrize("name", REQUESTS)
def test_the_engine_of_the_tests_answers_as_recorded(small: str, name: str) -> None:
    check(small, name)


@pytest.mark.engine
def test_vllm_answers_as_recorded(real: str) -> None:
    if os.environ.get("VLLM_RECORD"):
        found = {name: answer(real, asked) for name, asked in REQUESTS.items()}
        RECORDED.parent.mkdir(exist_ok=True)
        RECORDED.write_text(json.dumps(found, indent=1) + "\n")
    for name in REQUESTS:
        check(real, name)
