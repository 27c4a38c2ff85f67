"""Finds out what an engine can: a few small questions at the start, each of which it answers or refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ml.errors import EngineError, EngineUnavailableError, ModelLoadError
from ml.models.served.abilities import Abilities, OwnTokens
from ml.models.served.asking import ask
from ml.models.served.client import EngineClient
from ml.models.served.completions import Query

_LARGEST_TOP = 1000
_PATIENCE_SECONDS = 2.0
"""For a question that an engine fails at: what it does not know is an internal error to some."""

_GIVEN = (128, 2, 1)
"""How many given ids are tried; vLLM takes 128."""


@dataclass(frozen=True)
class Card:
    """What an engine says of itself and of a model.

    Attributes:
        engine: its name and version.
        origin: the folder or the name on the Hub that the model was loaded from; "" where it does not say.
        longest: tokens of a prompt and of what is generated behind it; None where it does not say.
    """

    engine: str
    origin: str
    longest: int | None


async def introduce(client: EngineClient, replica: str, *, patience: float | None = None) -> Card:
    """What one replica says of itself and of the model.

    Args:
        patience: seconds to wait for one that is away. Default: the client's.

    Raises:
        ModelLoadError: it serves another model.
        EngineError: it does not answer.
    """
    address = client.address
    listed = await client.get("/v1/models", replica=replica, patience=patience)
    try:
        cards: dict[str, dict[str, Any]] = {str(card["id"]): card for card in listed["data"]}
    except (KeyError, TypeError) as error:
        raise ModelLoadError(
            f"{replica} lists no models under /v1/models; is it an engine with OpenAI's API?"
        ) from error
    if address.model not in cards:
        served = ", ".join(sorted(cards)) or "none"
        raise ModelLoadError(f"{replica} serves no model {address.model!r}; it serves {served}")
    card = cards[address.model]
    longest = card.get("max_model_len")
    return Card(
        engine=f"{address.engine} {await _version(client, replica)}".strip(),
        origin=str(card.get("root") or ""),
        longest=longest if isinstance(longest, int) and longest > 1 else None,
    )


async def _version(client: EngineClient, replica: str) -> str:
    try:
        found = await client.get("/version", replica=replica, patience=0.0)
        return str(found["version"])
    except (EngineError, KeyError, TypeError):
        return ""


async def find_abilities(
    client: EngineClient, sequence: Sequence[int], vocabulary_size: int, replica: str
) -> Abilities:
    """What `replica` does with `sequence`, some tokens of a text.

    Raises:
        ModelLoadError: it takes no ids as a prompt, or gives no log-probabilities of given tokens.
        EngineError: it does not answer.
    """
    address = client.address
    plain = Query((tuple(sequence),))
    nothing = Abilities(vocabulary_size=vocabulary_size)
    try:
        await ask(client, plain, nothing, replica=replica)
    except EngineUnavailableError:
        raise
    except EngineError as error:
        raise ModelLoadError(
            f"the engine does not take token ids as a prompt ({error}), so Gloss could not be sure of what it reads; if"
            " it should, as vLLM does, set GLOSS_TOKENIZER to that of the model that is served"
        ) from error
    found = await _own_tokens(client, replica, replace(plain, tail=len(sequence) - 1), nothing)
    for count in _GIVEN:
        if await _answers(client, replica, replace(plain, given=tuple(range(min(count, vocabulary_size)))), found):
            found = replace(found, given_ids=count)
            break
    if not found.explains:
        raise ModelLoadError(
            f"the engine gives no log-probabilities of the tokens of a prompt ({address.model!r} was asked), neither by"
            " prompt_logprobs nor by echo, so nothing can be explained by it. vLLM does"
        )
    top, priority, salt = await asyncio.gather(
        _largest_top(client, replica, plain, found, min(_LARGEST_TOP, vocabulary_size)),
        _answers(client, replica, replace(plain, stands_back=True), replace(found, priority=True)),
        _answers(client, replica, replace(plain, salt="gloss"), replace(found, salt=True)),
    )
    # Other engines ignore words that they do not know.
    known = address.engine == "vllm"
    return replace(found, top=top, priority=priority and known, salt=salt and known)


async def _own_tokens(client: EngineClient, replica: str, query: Query, nothing: Abilities) -> Abilities:
    ways = (
        replace(nothing, own_tokens=OwnTokens.PROMPT_LOGPROBS),
        replace(nothing, own_tokens=OwnTokens.ECHO),
        replace(nothing, own_tokens=OwnTokens.ECHO, echoed_tokens=1),
    )
    for way in ways:
        if await _answers(client, replica, query, way):
            return way
    return nothing


async def _largest_top(client: EngineClient, replica: str, plain: Query, abilities: Abilities, largest: int) -> int:
    """By bisection, as engines refuse what is more than their limit, or list fewer.

    Of a prompt's own token: a list of next tokens may be cut short by what the engine does for others beside.
    """
    if not await _answers(client, replica, replace(plain, top=1), abilities):
        return 0
    lower, upper, middle = 0, largest, largest
    while lower < upper:
        if await _answers(client, replica, replace(plain, tail=1, top=middle), abilities):
            lower = middle
        else:
            upper = middle - 1
        middle = (lower + upper + 1) // 2
    return lower


async def _answers(client: EngineClient, replica: str, query: Query, abilities: Abilities) -> bool:
    """Whether the engine answers `query`, and neither refuses it, nor fails at it alone, nor answers what is of no use.

    Raises:
        EngineError: it does not answer what it can, either.
    """
    try:
        await ask(client, query, abilities, replica=replica, patience=_PATIENCE_SECONDS)
    except EngineUnavailableError:
        await ask(client, Query((query.sequences[0][:1],)), Abilities(), replica=replica)
        return False
    except EngineError:
        return False
    return True
