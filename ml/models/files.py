"""A model's files: where they are, whether they may be read, and what they hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from ml.errors import ModelLoadError
from ml.models import adapters

PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""The models that ship with Gloss, a folder each."""

_DESCRIPTIONS = (
    "config.json",
    adapters.CONFIG,
    "generation_config.json",
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
    "model.safetensors.index.json",
)


def shipped() -> tuple[str, ...]:
    """Names of the models that ship with Gloss."""
    return tuple(sorted(path.parent.name for path in PRETRAINED.glob("*/config.json")))


def find(name_or_path: str) -> Path:
    """The folder of a model or adapter; one of the Hub is fetched into its usual cache.

    Raises:
        ModelLoadError: there is none.
    """
    if name_or_path in shipped():
        return PRETRAINED / name_or_path
    return Path(name_or_path).resolve() if Path(name_or_path).is_dir() else _fetch(name_or_path)


def base_of(folder: Path) -> Path:
    """The folder with a model's own weights, complete as far as names tell: `folder`, or that of an adapter's base.

    Raises:
        ModelLoadError: a file is missing.
    """
    if (folder / adapters.CONFIG).is_file() and not adapters.has_base(folder):
        base = find(adapters.base_name(folder))
        if not adapters.has_base(base) and (base / adapters.CONFIG).is_file():
            raise ModelLoadError(
                f"the base model {base} of the adapter {folder} is an adapter, too; merge the two first"
            )
        folder = base
    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder} has no config.json; name the folder that save_pretrained wrote")
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(f"{folder} has no *.safetensors; {_advice(folder)}")
    return folder


def digest(*folders: Path) -> str:
    """SHA-256 over names and contents of everything in a model's folders that decides its answers, in hexadecimal."""
    total = hashlib.sha256()
    for folder in dict.fromkeys(folders):
        names = {path.name for path in folder.glob("*.safetensors")} | {
            name for name in _DESCRIPTIONS if (folder / name).is_file()
        }
        for name in sorted(names):
            with (folder / name).open("rb") as file:
                total.update(name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _fetch(name: str) -> Path:
    choices = f"a shipped model ({', '.join(shipped()) or 'none'}), a folder, or a name on the Hugging Face Hub"
    wanted, unwanted = [*_DESCRIPTIONS, "*.safetensors"], ["*/*", "consolidated*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
    except HFValidationError:
        raise ModelLoadError(f"there is no folder {name!r}; give {choices}") from None
    except Exception as error:  # httpx, requests, OSError and the Hub's own: all mean that it cannot be had
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"{name!r} cannot be fetched from the Hub ({reason}); give {choices}") from error


def _advice(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
        return "pickled weights can run code when they are read, so they are refused: save them as safetensors"
    return "its weights are missing"
