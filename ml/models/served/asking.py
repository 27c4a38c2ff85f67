"""One query to an engine, and what it answers."""

from __future__ import annotations

from ml.models.served.abilities import Abilities
from ml.models.served.client import EngineClient
from ml.models.served.completions import PATH, Answer, Query, answers, body
from ml.models.served.exchange import Reply


async def ask(
    client: EngineClient,
    query: Query,
    abilities: Abilities,
    *,
    replica: str | None = None,
    patience: float | None = None,
    queued: bool = True,
) -> Reply[list[Answer]]:
    """What the engine answers to `query`, one answer a sequence. The other arguments are those of `EngineClient.post`.

    Raises:
        EngineError: nothing that could be used.
    """
    model = client.address.model
    return await client.post(
        PATH,
        body(model, query, abilities),
        lambda data: answers(data, model, query, abilities),
        prompts=len(query.sequences),
        replica=replica,
        patience=patience,
        queued=queued,
    )
