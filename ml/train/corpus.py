"""A folder of three text files, read and counted the way WikiText's published figures count it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ml.train.errors import DataError

FILES = {
    "train": ("train.txt", "wiki.train.tokens"),
    "valid": ("valid.txt", "wiki.valid.tokens"),
    "test": ("test.txt", "wiki.test.tokens"),
}


@dataclass(frozen=True)
class Corpus:
    """The splits' lines without their line ends, blank ones included."""

    train: list[str]
    valid: list[str]
    test: list[str]


def read_corpus(folder: str | Path) -> Corpus:
    """Read all three splits.

    Raises:
        DataError: the folder or a file is missing, unreadable, empty or no UTF-8 text.
    """
    return Corpus(*(read_split(folder, split) for split in FILES))


def read_split(folder: str | Path, split: str) -> list[str]:
    """One split's lines; `split` is train, valid or test. See `read_corpus` for the errors."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}; it should hold train.txt, valid.txt and test.txt")
    for name in FILES[split]:
        path = folder / name
        if path.exists():
            break
    else:
        raise DataError(f"{folder} has neither {' nor '.join(FILES[split])}; the {split} split goes there")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be read") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise DataError(f"{path} holds a NUL character; it should be plain text")
    if not text.strip():
        raise DataError(f"{path} is empty")
    # Only "\n" ends a line: WikiText has other line separators inside its lines.
    return text.removesuffix("\n").split("\n")


def fingerprint(corpus: Corpus) -> str:
    """Identifies texts: SHA-256 of what is trained and validated on, in hexadecimal."""
    total = hashlib.sha256()
    for lines in (corpus.train, corpus.valid):
        total.update("\n".join(lines).encode() + b"\0")
    return total.hexdigest()


def count_words(lines: list[str]) -> int:
    """Words between spaces plus one end of line for each line: what published WikiText perplexities divide by."""
    return sum(len(line.split()) + 1 for line in lines)
