"""The client of Gloss: ask a served language model what it expects next, and why.

    import gloss

    with gloss.Client("127.0.0.1:50051") as client:
        reply = client.next_token("The capital of France is", top_k=5)
        why = client.explain("The capital of France is", "lime")
        for part in why.result.attributions:
            print(part.text, part.attribution, part.standard_error)

`gloss.v1` has the contract's messages, and `gloss.build` makes them from plain values. `gloss.tensors` reads packed
tensors, `gloss.durations` times, and `gloss.values` standard errors and rows. `gloss.render` draws explanations for the
terminal and as HTML.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gloss.aio import AsyncClient
    from gloss.client import Client
    from gloss.errors import ExplanationFailedError, GlossError

__all__ = ["AsyncClient", "Client", "ExplanationFailedError", "GlossError"]

_HOMES = {
    "AsyncClient": "gloss.aio",
    "Client": "gloss.client",
    "ExplanationFailedError": "gloss.errors",
    "GlossError": "gloss.errors",
}


def __getattr__(name: str) -> Any:
    """Import the clients, and gRPC with them, on first use: code that only needs the messages does not wait."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
