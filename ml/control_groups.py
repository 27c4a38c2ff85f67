"""The control groups around this process: how the kernel bounds what a container uses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ROOT = Path("/sys/fs/cgroup")

_MEMBERSHIP = re.compile(r"\d+:([^:]*):(/.*)")
"""A hierarchy's number, its controllers, which are none in the second generation, and the group's path in it."""


@dataclass(frozen=True)
class ControlGroup:
    """A group's files."""

    folder: Path
    unified: bool
    """Whether it is of the second generation, whose files have other names."""

    def read(self, name: str) -> list[str]:
        """The lines of one of its files; none if it has no such file."""
        return lines(self.folder / name)

    def number(self, name: str) -> int | None:
        """The number in one of its files, if there is one."""
        found = self.read(name)
        return int(found[0]) if found and found[0].isdecimal() else None


def control_groups(controller: str) -> Iterator[ControlGroup]:
    """This process's groups and those around them, the inner ones first. All of them bound it.

    Args:
        controller: what they bound: "memory" or "cpu".
    """
    for found in filter(None, map(_MEMBERSHIP.fullmatch, lines(_PROC / "self/cgroup"))):
        controllers, path = found.groups()
        if controllers and controller not in controllers.split(","):
            continue
        root = _ROOT / controller if controllers else _ROOT
        # Inside a container the path may be that of the outside; then only the root is there, and it is our group.
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder != root and root not in folder.parents:
                break
            yield ControlGroup(folder, unified=not controllers)


def lines(path: Path) -> list[str]:
    """A file's lines; none if there is no such file. Groups may have names that are not UTF-8."""
    try:
        return os.fsdecode(path.read_bytes()).splitlines()
    except OSError:
        return []
