"""API keys: a file of names, hashes and limits, and the command that makes them.

    python -m server.keys new NAME [--file FILE] [--tenant T] [--admin] [--calls N] [--prompts-per-minute N]
    python -m server.keys list | revoke NAME [--file FILE]

A key is 256 random bits, too many to try out, so keeping its plain SHA-256 is enough. The key itself is
shown once, when it is made. A line of the file is
``NAME sha256:HASH [tenant=T] [admin] [calls=N] [prompts_per_minute=N]``.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import re
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.ports import StartError

_logger = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_FORM = "NAME sha256:HASH [tenant=T] [admin] [calls=N] [prompts_per_minute=N]"
_COUNT = re.compile("[1-9][0-9]{0,8}")
_LIMITS = ("calls", "prompts_per_minute")


class KeyFileError(Exception):
    """The file of keys cannot be read, or a line of it makes no sense. The message holds no part of a key."""


@dataclass(frozen=True)
class Key:
    """Who a key belongs to, and how much it is allowed; None is no limit of its own.

    Keys of one `tenant` share their explanations; without it a key is a tenant of its own. An `admin` key sees all.
    """

    name: str
    hash: str
    calls: int | None = None
    prompts_per_minute: int | None = None
    tenant: str | None = None
    admin: bool = False

    @property
    def line(self) -> str:
        """As the file has it."""
        return " ".join((self.name, f"sha256:{self.hash}", *self.rights))

    @property
    def rights(self) -> list[str]:
        """All but name and hash, as the file has it."""
        tenant = [f"tenant={self.tenant}"] if self.tenant else []
        admin = ["admin"] if self.admin else []
        limits = [f"{limit}={value}" for limit in _LIMITS if (value := getattr(self, limit)) is not None]
        return [*tenant, *admin, *limits]


class KeyFile:
    """The keys of a file, which is read again when it changes: a key can be made or revoked while the server runs."""

    def __init__(self, path: Path) -> None:
        """Read `path`.

        Raises:
            KeyFileError: it cannot be read, or has no key.
        """
        self._path = path
        self._version = _version(path)
        self._by_hash = _by_hash(parse(path))
        if not self._by_hash:
            raise KeyFileError(f"{path} has no key; make one by `python -m server.keys new NAME --file {path}`")

    def find(self, presented: str) -> Key | None:
        """The key that `presented` is, in a time that does not depend on how many there are.

        They are looked up by their hash, so the time reveals something of a hash at most, which nobody can choose.
        """
        self._refresh()
        return self._by_hash.get(digest(presented))

    def _refresh(self) -> None:
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            keys = parse(self._path)
            self._by_hash = _by_hash(keys)
            _logger.info("read %d API keys again", len(keys))
        except KeyFileError as error:  # whoever edits it is not done; those who have keys keep them
            _logger.error("the API keys stay as they were: %s", error)


def key_file(path: Path | None) -> KeyFile | None:
    """The keys that a setting names, if it is set.

    Raises:
        StartError: they cannot be used, with exit code 2.
    """
    if path is None:
        return None
    try:
        return KeyFile(path)
    except KeyFileError as error:
        raise StartError(f"GLOSS_API_KEYS_FILE: {error}", 2) from None


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode(errors="replace")).hexdigest()


def parse(path: Path) -> list[Key]:
    """The keys of a file; empty lines and those that begin with # are for people.

    Raises:
        KeyFileError: it cannot be read, or a line makes no sense.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise KeyFileError(f"{path} cannot be read: {reason}") from None
    keys: dict[str, Key] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key = _parse_line(line)
        if key is None:
            raise KeyFileError(f"line {number} of {path} is not {_FORM}")
        if key.name in keys:
            raise KeyFileError(f"line {number} of {path} names {key.name} a second time")
        keys[key.name] = key
    return list(keys.values())


def _by_hash(keys: Iterable[Key]) -> dict[str, Key]:
    return {key.hash: key for key in keys}


def _parse_line(line: str) -> Key | None:
    name, hashed, *rest = [*line.split(), ""][:2] + line.split()[2:]
    found = _HASH.fullmatch(hashed)
    rights = [_parse_right(part) for part in rest]
    known = dict(right for right in rights if right is not None)
    if not found or not _NAME.fullmatch(name) or len(known) != len(rest):
        return None
    return Key(name, found[1], **known)


def _parse_right(part: str) -> tuple[str, Any] | None:
    right, _, value = part.partition("=")
    if part == "admin":
        return right, True
    if right == "tenant" and _NAME.fullmatch(value):
        return right, value
    if right in _LIMITS and _COUNT.fullmatch(value):
        return right, int(value)
    return None


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _write(path: Path, lines: list[str]) -> None:
    """In one step, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    half.replace(path)


def _new(path: Path, options: argparse.Namespace) -> None:
    keys = parse(path) if path.exists() else []
    for name in (options.name, options.tenant):
        if name is not None and not _NAME.fullmatch(name):
            raise KeyFileError("a name is up to 64 letters, digits, dots, dashes and underscores")
    if any(key.name == options.name for key in keys):
        raise KeyFileError(f"{path} has a key named {options.name}; revoke it first, or choose another name")
    secret = f"gloss_{secrets.token_urlsafe(32)}"
    limits = (options.calls, options.prompts_per_minute)
    key = Key(options.name, digest(secret), *limits, options.tenant, options.admin)
    _write(path, [*(path.read_text(encoding="utf-8").splitlines() if path.exists() else []), key.line])
    print(secret)
    print(f"This key is shown once. {path} keeps its hash, as {options.name}.", file=sys.stderr)


def _revoke(path: Path, options: argparse.Namespace) -> None:
    if not any(key.name == options.name for key in parse(path)):
        raise KeyFileError(f"{path} has no key named {options.name}")
    lines = path.read_text(encoding="utf-8").splitlines()
    _write(path, [line for line in lines if line.split()[:1] != [options.name]])


def _list(path: Path, _: argparse.Namespace) -> None:
    for key in parse(path):
        print(key.name, *key.rights)


def _count(text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """Make, list or revoke keys."""
    parser = argparse.ArgumentParser(prog="python -m server.keys", description="API keys of a Gloss server.")
    commands = parser.add_subparsers(required=True)
    for name, act, help_ in (
        ("new", _new, "make a key and show it, once"),
        ("list", _list, "the names, tenants and limits of all keys"),
        ("revoke", _revoke, "forget a key; a running server notices with the next call"),
    ):
        command = commands.add_parser(name, help=help_)
        command.set_defaults(act=act)
        if act is not _list:
            command.add_argument("name", help="whose key it is")
        if act is _new:
            command.add_argument("--tenant", help="keys of one tenant share their explanations; default: its own")
            command.add_argument("--admin", action="store_true", help="sees the explanations of all tenants")
            command.add_argument("--calls", type=_count, help="calls in progress at once, streams among them")
            command.add_argument("--prompts-per-minute", type=_count, help="prompts, continuations and explanations")
        command.add_argument("--file", type=Path, help="default: GLOSS_API_KEYS_FILE")
    options = parser.parse_args(arguments)
    path = options.file or Path(os.environ.get("GLOSS_API_KEYS_FILE", ""))
    try:
        if not path.name:
            raise KeyFileError("name the file of keys by --file or GLOSS_API_KEYS_FILE")
        options.act(path, options)
    except (KeyFileError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
