"""The completions API where a text is generated: how it is asked for, and what each event of its stream brings."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ml.generation import GenerationSpec
from ml.models.served.abilities import Abilities
from ml.models.served.completions import BEHIND, Likely, likely, number, token_id
from ml.models.served.exchange import MALFORMED, UnusableError

_NEUTRAL = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Switches off what a model's own generation settings would do where an engine takes them for its defaults."""

_SEED_BITS = 63
"""An engine's seeds are signed."""

_BANNED = -100
"""What is added to a banned token's logit: the most that the API allows."""


@dataclass(frozen=True)
class Generated:
    """One token that came, and what is known of its position.

    `top` is empty where the engine cut its list short. `ended` is whether the engine has ended the text with it, by a
    rule of its own.
    """

    token_id: int
    log_probability: float
    top: Likely
    ended: bool


def body(
    model: str,
    ids: Sequence[int],
    spec: GenerationSpec,
    abilities: Abilities,
    *,
    max_tokens: int,
    banned: Collection[int] = (),
    salt: str = "",
) -> dict[str, Any]:
    """The request that continues `ids` token by token, none of which is `banned`.

    Stop texts are left out: they are looked for in the text as it comes.
    """
    return {
        **_common(model, ids, abilities, max_tokens=max_tokens, banned=banned, salt=salt),
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "seed": spec.seed % (1 << _SEED_BITS),
        "logprobs": spec.top_k if abilities.top else 1,
        "stream": True,
    }


def greedy_body(
    model: str,
    ids: Sequence[int],
    abilities: Abilities,
    *,
    max_tokens: int,
    banned: Collection[int] = (),
    salt: str = "",
) -> dict[str, Any]:
    """The request that continues `ids` by the likeliest tokens that are not `banned`, behind everybody's requests."""
    asked = {
        **_common(model, ids, abilities, max_tokens=max_tokens, banned=banned, salt=salt),
        "temperature": 0,
        "logprobs": 1,
    }
    if abilities.priority:
        asked["priority"] = BEHIND
    return asked


def greedy_ids(data: Any, abilities: Abilities) -> list[int]:
    """The tokens that answer a `greedy_body`.

    Raises:
        UnusableError, LookupError, TypeError, ValueError: it lacks them.
    """
    [choice] = data["choices"]
    return [token_id(name, abilities) for name in choice["logprobs"]["tokens"]]


def _common(
    model: str, ids: Sequence[int], abilities: Abilities, *, max_tokens: int, banned: Collection[int], salt: str
) -> dict[str, Any]:
    asked = {
        "model": model,
        "prompt": list(ids),
        "max_tokens": max_tokens,
        **_NEUTRAL,
        "return_tokens_as_token_ids": True,
    }
    if banned:
        asked["logit_bias"] = {str(token): _BANNED for token in banned}
    if salt and abilities.salt:
        asked["cache_salt"] = salt
    return asked


def tokens(event: Any, top: int, abilities: Abilities) -> list[Generated]:
    """The tokens that an event brings: one, several, or none.

    Raises:
        UnusableError: it is an error, or lacks something.
    """
    try:
        if not event["choices"]:
            return []
        [choice] = event["choices"]
        found = choice.get("logprobs")
        if not found or not found["tokens"]:
            return []
        names, values, tops = found["tokens"], found["token_logprobs"], found.get("top_logprobs") or []
        last = len(names) - 1
        return [
            Generated(
                token_id=token_id(name, abilities),
                log_probability=_chosen(value),
                top=likely(tops[place], top, abilities) if top else (),
                ended=place == last and choice["finish_reason"] == "stop",
            )
            for place, (name, value) in enumerate(zip(names, values, strict=True))
        ]
    except MALFORMED as error:
        raise UnusableError(f"an event of its text lacks something ({type(error).__name__})") from error


def _chosen(value: Any) -> float:
    """The log-probability of a token that was generated.

    Raises:
        UnusableError: it is none, or says that the token cannot be.
    """
    found = number(value)
    if found == -math.inf:
        raise UnusableError("it generates a token to which it gives no probability")
    return found
