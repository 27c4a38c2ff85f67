"""The tokenizer of a model that is served elsewhere, from the model's own files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ml.errors import ModelLoadError
from ml.model_folders import PRETRAINED, TOKENIZER_FILES
from ml.tokens import Tokenizer

_DESCRIPTIONS = ("config.json", "generation_config.json")
"""Which say of the model what its engine does not."""


@dataclass(frozen=True)
class Files:
    """The files of a tokenizer, and what those beside them say of the model."""

    folder: Path

    def digest(self) -> str:
        """SHA-256 over names and contents of what decides how a text is cut, in hexadecimal."""
        total = hashlib.sha256()
        for name in sorted(name for name in TOKENIZER_FILES if (self.folder / name).is_file()):
            with (self.folder / name).open("rb") as file:
                total.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    @property
    def architecture(self) -> str:
        """What the model's configuration calls its kind; "" where it is not at hand."""
        return str(self._read("config.json").get("model_type", ""))

    @property
    def vocabulary_size(self) -> int | None:
        """Ids that the model knows, which may be more than the tokenizer has."""
        size = self._text_config.get("vocab_size")
        return size if isinstance(size, int) else None

    @property
    def context_length(self) -> int | None:
        """The longest prompt by the model's configuration."""
        length = self._text_config.get("max_position_embeddings")
        return length if isinstance(length, int) else None

    @property
    def end_ids(self) -> list[int]:
        """The tokens at which the model's own generation settings stop."""
        ends = self._read("generation_config.json").get("eos_token_id")
        return [ends] if isinstance(ends, int) else list(ends or ())

    @property
    def _text_config(self) -> dict[str, Any]:
        config = self._read("config.json")
        nested = config.get("text_config")
        return nested if isinstance(nested, dict) else config

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def find(asked: str, origin: str, revision: str) -> Files:
    """The files of the tokenizer that is `asked` for, or of the `origin` that the engine names where none is.

    Raises:
        ModelLoadError: there are none.
    """
    source = asked or origin
    if not source:
        raise ModelLoadError("the engine does not say where its model is from; set GLOSS_TOKENIZER to a folder or name")
    for folder in (PRETRAINED / source, Path(source)):
        if folder.is_dir():
            return Files(folder.resolve())
    try:
        fetched = snapshot_download(
            source, revision=revision or None, allow_patterns=[*TOKENIZER_FILES, *_DESCRIPTIONS]
        )
    except Exception as error:  # the Hub's own errors, those of its connection, and names that are none
        reason = str(error).strip().partition("\n")[0]
        named = "GLOSS_TOKENIZER" if asked else "the engine"
        raise ModelLoadError(
            f"the tokenizer {source!r}, which {named} names, is no folder here and cannot be fetched from the Hub"
            f" ({reason}); set GLOSS_TOKENIZER to the model's own"
        ) from error
    return Files(Path(fetched))


def load(files: Files, name: str, context_length: int, vocabulary_size: int | None) -> Tokenizer:
    """The tokenizer in `files`.

    Args:
        name: the model's, for errors.
        vocabulary_size: ids that the model knows. Default: as many as the tokenizer has.

    Raises:
        ModelLoadError: there is none that gives tokens their places.
    """
    try:
        fast = AutoTokenizer.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged file makes of several parsers
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"the tokenizer in {files.folder} cannot be loaded: {reason}") from error
    if not isinstance(fast, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{files.folder} has no fast tokenizer (tokenizer.json), which alone gives tokens places")
    return Tokenizer(fast, context_length, vocabulary_size=vocabulary_size, end_ids=files.end_ids, model=name)
