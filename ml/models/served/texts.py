"""The completions API where a text is generated: how it is asked for, and what each event of its stream brings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ml.generation import GenerationSpec
from ml.models.served.abilities import Abilities
from ml.models.served.completions import NEUTRAL, Likely, likely, number, token_id
from ml.models.served.exchange import MALFORMED, UnusableError

_SEED_BITS = 63
"""An engine's seeds are signed."""


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
    model: str, ids: Sequence[int], spec: GenerationSpec, abilities: Abilities, *, max_tokens: int, salt: str = ""
) -> dict[str, Any]:
    """The request that continues `ids`.

    Stop texts are left out: they are looked for in the text as it comes. What a model's own generation settings would
    do to the probabilities is switched off.
    """
    asked: dict[str, Any] = {
        "model": model,
        "prompt": list(ids),
        "max_tokens": max_tokens,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        **NEUTRAL,
        "seed": spec.seed % (1 << _SEED_BITS),
        "logprobs": spec.top_k if abilities.top else 1,
        "return_tokens_as_token_ids": True,
        "stream": True,
    }
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
