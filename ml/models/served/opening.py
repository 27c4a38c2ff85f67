"""From the address of a model that is served elsewhere to all that is known of it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

from ml.errors import EngineError, EngineUnavailableError, ModelLoadError
from ml.models.protocol import ModelInfo
from ml.models.served import tokenizer as tokenizers
from ml.models.served.abilities import Abilities
from ml.models.served.address import Address
from ml.models.served.agreement import TEXTS, check_reading, check_tokens, check_ways
from ml.models.served.client import EngineClient
from ml.models.served.fingerprint import Fingerprint, take_fingerprint
from ml.models.served.options import EngineOptions
from ml.models.served.probe import Card, find_abilities, introduce
from ml.spec import Prompt
from ml.tokens import Tokenizer

_UNBOUNDED_CONTEXT = 2048
"""Longest prompt where neither the engine nor the model's configuration names one."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What was found out of a served model at the start. It holds no connection."""

    address: Address
    options: EngineOptions
    info: ModelInfo
    tokenizer: Tokenizer
    abilities: Abilities
    fingerprint: Fingerprint


async def look(address: Address, options: EngineOptions) -> Found:
    """Find out what the engine at `address` can, and whether it can be believed.

    Raises:
        ModelLoadError: it is away, serves another model, cuts texts in another way than the tokenizer, or cannot give
            what everything else rests on.
    """
    try:
        async with EngineClient(address, options) as client:
            return await _look(client)
    except EngineError as error:
        raise ModelLoadError(str(error)) from error


async def _look(client: EngineClient) -> Found:
    address, options = client.address, client.options
    cards = [await _awaited(client, replica) for replica in address.replicas]
    card = cards[0]
    files = tokenizers.find(options.tokenizer, card.origin, address.revision)
    # The engine keeps a place for the token that it has to generate.
    lengths = [each.longest - 1 for each in cards if each.longest]
    context_length = min([*lengths, *([] if lengths else [files.context_length or _UNBOUNDED_CONTEXT])])
    tokenizer = tokenizers.load(files, address.name, context_length, files.vocabulary_size)
    first = address.replicas[0]
    await check_tokens(client, tokenizer, first)
    sequence = tokenizer.encode(Prompt(TEXTS[0])).ids
    abilities = await find_abilities(client, sequence, tokenizer.vocabulary_size, first)
    _log.info("model=%s engine=%s %s", address.name, card.engine, abilities)
    await check_reading(client, tokenizer, abilities, first)
    await check_ways(client, tokenizer, abilities, first)
    fingerprint = await take_fingerprint(client, tokenizer, abilities)
    _log.info("model=%s noise=%.2g tolerance=%.2g nats", address.name, fingerprint.noise, fingerprint.tolerance)
    info = ModelInfo(
        name=address.name,
        digest=_digest(address, files),
        architecture=files.architecture or "unknown",
        parameters=0,
        layers=0,
        heads=0,
        hidden_size=0,
        vocabulary_size=tokenizer.vocabulary_size,
        context_length=context_length,
        device="engine",
        dtype="unknown",
        engine=card.engine,
        max_top_k=abilities.top,
        noise=fingerprint.noise,
        token_price=None if options.price is None else options.price / 1e6,
    )
    return Found(address, options, info, tokenizer, abilities, fingerprint)


async def _awaited(client: EngineClient, replica: str) -> Card:
    """What a replica says of itself, once it answers. Where it does not at once, the log says why nothing happens.

    Raises:
        ModelLoadError, EngineError: as `introduce`.
    """
    try:
        return await introduce(client, replica, patience=0.0)
    except EngineUnavailableError as error:
        _log.warning("%s; waiting up to %g s", error, client.options.patience)
    return await introduce(client, replica)


def _digest(address: Address, files: tokenizers.Files) -> str:
    """Over name, revision and tokenizer: all that server and workers know alike of what an engine computes."""
    parts = ("served", address.model, address.revision, files.digest())
    return hashlib.sha256(repr(parts).encode()).hexdigest()
