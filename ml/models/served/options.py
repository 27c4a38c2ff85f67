"""What a deployment decides about an external engine."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is asked.

    Attributes:
        key: sent as ``Authorization: Bearer KEY``; "" sends none.
        concurrency: the most prompts that are in flight at one replica, so that its other users are served beside.
        tokenizer: a folder or a name on the Hub. "" takes what the engine names as the model's origin.
        timeout: seconds that one request may take, the engine's own queue included.
        patience: seconds for which a request is tried again while the engine is away or refuses for now.
        price: of a million prompt tokens, in whatever currency; None where nobody counts.
    """

    key: str = field(default="", repr=False)
    concurrency: int = 256
    tokenizer: str = ""
    timeout: float = 120.0
    patience: float = 60.0
    price: float | None = None
