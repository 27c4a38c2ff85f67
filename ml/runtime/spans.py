"""How far back each layer of a Hugging Face model sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedModel

from ml.runtime.ragged_batch import FULL, Span

SpanOf = Callable[[int, Mapping[str, Any]], Span]
"""What a layer sees, by its number and what the model hands to its attention besides queries, keys and values."""


def spans_of(module: PreTrainedModel) -> SpanOf:
    """What the layers of `module` see.

    A window is what the layer's attention is handed as `sliding_window`. Chunks are made by masks alone, as are the
    windows of architectures that hand nothing over, so they are looked up in the configuration. Verification shows
    whether this is all that there is.
    """
    config = module.config.get_text_config()
    kinds = list(getattr(config, "layer_types", None) or ())
    chunk = getattr(config, "attention_chunk_size", None)
    masked = getattr(config, "sliding_window", None)

    def span_of(layer: int, arguments: Mapping[str, Any]) -> Span:
        kind = kinds[layer] if layer < len(kinds) else "sliding_attention"
        if window := arguments.get("sliding_window", masked if kind == "sliding_attention" else None):
            return Span(int(window))
        if chunk and kind == "chunked_attention":
            return Span(int(chunk), chunked=True)
        return FULL

    return span_of
