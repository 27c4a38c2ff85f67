"""A model's files: where they are, whether they may be read, what they hold, and how they are written."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import model_info, snapshot_download
from huggingface_hub.errors import HFValidationError

from ml.errors import ModelLoadError
from ml.model_folders import PRETRAINED, TOKENIZER_FILES
from ml.models.loading import adapters, formats

CONFIG = "config.json"

_DESCRIPTIONS = (
    CONFIG,
    adapters.CONFIG,
    "generation_config.json",
    *TOKENIZER_FILES,
    formats.INDEX,
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
    if Path(name_or_path).is_file():
        raise ModelLoadError(formats.single_file(name_or_path))
    return Path(name_or_path).resolve() if Path(name_or_path).is_dir() else _fetch(name_or_path)


def base_of(folder: Path) -> Path:
    """The folder with a model's own weights, complete as far as names show: `folder`, or that of an adapter's base.

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
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights and (message := formats.foreign(str(folder), _sizes(folder))):
        raise ModelLoadError(message)
    if not (folder / CONFIG).is_file():
        raise ModelLoadError(f"{folder} has no config.json; name the folder that save_pretrained wrote")
    if not weights:
        raise ModelLoadError(f"{folder} has no *.safetensors; its weights are missing")
    formats.check_shards(weights, _index(folder), str(folder))
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


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give an empty scratch folder whose files take the place of `folder`'s when the block ends without an error.

    A process that is killed at any moment leaves a model that is whole, the earlier or the new one, or, where more than
    one file changes, a folder without config.json, which nothing takes for a model. Files of the same content stay.

    Raises:
        OSError: the disk is full or refuses; what lay in `folder` is unharmed.
    """
    scratch = folder / ".partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        changed = [path for path in scratch.iterdir() if not _same(path, folder / path.name)]
        for path in changed:
            _flush(path)
        if len(changed) > 1:
            (folder / CONFIG).unlink(missing_ok=True)
        for path in sorted(changed, key=lambda path: path.name == CONFIG):
            path.replace(folder / path.name)
        _flush(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def remove_model(folder: Path) -> None:
    """Remove the files that make `folder` a model's, and no others."""
    for path in (folder / CONFIG, *folder.glob("*.safetensors"), *(folder / name for name in _DESCRIPTIONS)):
        path.unlink(missing_ok=True)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def _flush(path: Path) -> None:
    """Have the disk hold what was written to a file, or which files a folder has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fetch(name: str) -> Path:
    choices = f"a shipped model ({', '.join(shipped()) or 'none'}), a folder, or a name on the Hugging Face Hub"
    wanted, unwanted = [*_DESCRIPTIONS, "*.safetensors"], ["*/*", "consolidated*"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
    except HFValidationError:
        raise ModelLoadError(f"there is no folder {name!r}; give {choices}") from None
    except Exception as error:  # httpx, requests, OSError and the Hub's own: all mean that it cannot be had
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"{name!r} cannot be fetched from the Hub ({reason}); give {choices}") from error
    return _check_fetched(name, folder)


def _check_fetched(name: str, folder: Path) -> Path:
    """Say what a repository of the Hub holds that has nothing to fetch. What is kept of it here lists no such files."""
    if not any(folder.glob("*.safetensors")):
        try:
            files = model_info(name, files_metadata=True).siblings or []
        except Exception:  # noqa: BLE001 - out of reach, as in `_fetch`; the missing file is reported anyway
            return folder
        if message := formats.foreign(name, {file.rfilename: file.size or 0 for file in files}):
            raise ModelLoadError(message)
    return folder


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder and those within it, by their paths."""
    paths = [*folder.glob("*"), *folder.glob("*/*")]
    return {str(path.relative_to(folder)): path.stat().st_size for path in paths if path.is_file()}


def _index(folder: Path) -> dict[str, str] | None:
    """The file of each weight, where there are several."""
    path = folder / formats.INDEX
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(weight): str(file) for weight, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelLoadError(f"{path} is damaged; fetch it again") from error
