"""Names in models' folders, known without torch."""

from pathlib import Path

PRETRAINED = Path(__file__).parent / "pretrained"
"""The models that ship with Gloss, a folder each."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Which decide how a text is cut into tokens."""
