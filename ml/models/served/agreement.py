"""Whether an engine and the tokenizer of Gloss agree, and the engine with itself.

The same texts are asked about in two ways: by their text and by their tokens, inside a prompt and behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ml.errors import EngineError, EngineUnavailableError, ModelLoadError
from ml.models.served.abilities import Abilities
from ml.models.served.asking import ask
from ml.models.served.client import EngineClient
from ml.models.served.completions import PATH, Query
from ml.spec import Prompt
from ml.tokens import Tokenizer

TEXTS = (
    "The capital of France is Paris, and the river that flows through it is the Seine.",
    "In 1969, two people walked on the moon; it took them 4 days to get there.",
    "Don't you think that's odd? \u201cNo,\u201d she said, \u201cit isn\u2019t.\u201d",
    "Z\u00fcrich, S\u00e3o Paulo and \u6771\u4eac are cities \U0001f98a",
    "def add(a, b):\n    return a + b\n",
)
"""Texts of several kinds: words, numbers, quotes, other scripts, code."""

_AGREEMENT = 0.05
"""Nats between asking in two ways: by a text or its ids, by a prompt's own tokens or by given ids."""


async def check_tokens(client: EngineClient, tokenizer: Tokenizer, replica: str) -> None:
    """Make sure that the engine cuts texts as `tokenizer` does, as far as it says.

    Raises:
        ModelLoadError: it does not.
        EngineUnavailableError: it does not answer.
    """
    read = await asyncio.gather(*(_ids_of(client, text, replica) for text in TEXTS))
    for text, theirs in zip(TEXTS, read, strict=True):
        ours = tokenizer.encode(Prompt(text)).ids
        if theirs is not None and tuple(theirs) != ours:
            raise ModelLoadError(
                f"the engine cuts {text[:24]!r} into the tokens {_short(theirs)}, and the tokenizer of Gloss into"
                f" {_short(ours)}; set GLOSS_TOKENIZER to that of the model that is served"
            )


async def check_reading(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities, replica: str) -> None:
    """Make sure that the engine reads ids as it reads their text.

    Raises:
        ModelLoadError: it does not.
        EngineError: it does not answer.
    """
    ids = tokenizer.encode(Prompt(TEXTS[0])).ids
    by_ids, by_text = await asyncio.gather(
        _summed(client, ids, abilities, replica), _summed(client, ids, abilities, replica, text=TEXTS[0])
    )
    if not abs(by_ids - by_text) <= _AGREEMENT * len(ids):
        raise ModelLoadError(
            f"the engine finds {TEXTS[0][:24]!r} more likely by {by_text - by_ids:.3g} nats where it is asked by its"
            " text than by its tokens; set GLOSS_TOKENIZER to that of the model that is served"
        )


async def check_ways(client: EngineClient, tokenizer: Tokenizer, abilities: Abilities, replica: str) -> None:
    """Make sure that a token's log-probability is the same by whichever words it is asked for.

    Raises:
        ModelLoadError: it is not, as where an engine was set to give log-probabilities of another temperature.
        EngineError: it does not answer.
    """
    if not abilities.given_ids:
        return
    ids = tokenizer.encode(Prompt(TEXTS[1])).ids
    within, behind = await asyncio.gather(
        ask(client, Query((ids,), tail=1), abilities, replica=replica),
        ask(client, Query((ids[:-1],), given=ids[-1:]), abilities, replica=replica),
    )
    one, other = within.value[0].tail[0].log_probability, behind.value[0].given[0]
    if not abs(one - other) <= _AGREEMENT:
        raise ModelLoadError(
            f"the engine gives a token the log-probability {one:.4g} inside a prompt and {other:.4g} behind it; if it"
            " is vLLM, serve with --logprobs-mode raw_logprobs, which is its default"
        )


async def _ids_of(client: EngineClient, text: str, replica: str) -> Sequence[int] | None:
    """The tokens into which the engine cuts `text`; None where it does not say."""
    asked = {"model": client.address.model, "prompt": text, "max_tokens": 1, "temperature": 0, "return_token_ids": True}

    def read(data: Any) -> Sequence[int] | None:
        [choice] = data["choices"]
        found = choice.get("prompt_token_ids")
        return found if isinstance(found, list) else None

    try:
        return (await client.post(PATH, asked, read, prompts=1, replica=replica)).value
    except EngineUnavailableError:
        raise
    except EngineError:
        return None


async def _summed(
    client: EngineClient, ids: Sequence[int], abilities: Abilities, replica: str, *, text: str | None = None
) -> float:
    """Log-probability of all tokens but the first, asked for by `ids` or by `text`."""
    reply = await ask(client, Query((ids,), tail=len(ids) - 1, text=text), abilities, replica=replica)
    return sum(position.log_probability for position in reply.value[0].tail)


def _short(ids: Sequence[int]) -> str:
    return f"[{', '.join(map(str, ids[:8]))}{', …' if len(ids) > 8 else ''}]"
