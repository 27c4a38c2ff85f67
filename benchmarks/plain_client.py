"""What a good engineer would write to ask vLLM: many prompts in a request, as ids, for one log-probability of each."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

PROMPTS = 64
"""Of one request."""

_salts = itertools.count()


class PlainClient:
    """Asks vLLM for one token's log-probability after many prompts."""

    def __init__(self, url: str, model: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=600)
        self._model = model

    def by_ids(self, prompts: Sequence[tuple[int, ...]], token: int, salt: str) -> list[float]:
        """By `logprob_token_ids`, 64 prompts in one request."""
        body = {"logprobs": 1, "logprob_token_ids": [token], "max_tokens": 1, "return_tokens_as_token_ids": True}
        choices = self._choices([list(prompt) for prompt in prompts], body, salt)
        return [choice["logprobs"]["top_logprobs"][0][f"token_id:{token}"] for choice in choices]

    def by_echo(self, prompts: Sequence[tuple[int, ...]], token: int, salt: str) -> list[float]:
        """By `echo`, with the token behind each prompt."""
        body = {"echo": True, "logprobs": 1, "max_tokens": 0}
        choices = self._choices([[*prompt, token] for prompt in prompts], body, salt)
        return [choice["logprobs"]["token_logprobs"][-1] for choice in choices]

    def _choices(self, prompts: list[list[int]], body: dict[str, Any], salt: str) -> list[Any]:
        asked = {"model": self._model, "prompt": prompts, "temperature": 0, "cache_salt": salt, **body}
        reply = self._http.post("/v1/completions", json=asked).raise_for_status().json()
        return sorted(reply["choices"], key=lambda choice: choice["index"])


def seconds_for(
    way: Callable[[Sequence[tuple[int, ...]], int, str], list[float]],
    prompts: Sequence[tuple[int, ...]],
    token: int,
    at_once: int,
) -> float:
    """Seconds for all prompts, with so many requests at once."""
    salt = f"plain round {next(_salts)} of the benchmark"
    parts = [prompts[place : place + PROMPTS] for place in range(0, len(prompts), PROMPTS)]
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda part: way(part, token, salt), parts))
    return time.perf_counter() - began
