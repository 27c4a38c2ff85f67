"""Print the dependencies of extras, one a line: ``python deploy/dependencies.py serve``.

For an image whose layer of dependencies needs pyproject.toml and the lock only, and so survives every change of code.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path


def dependencies(project: dict[str, object], extras: list[str]) -> list[str]:
    """The project's own dependencies and those of `extras`, an extra's extras among them.

    `project` is the table of that name in pyproject.toml.
    """
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)  # noqa: S101 - for the type checker
    found = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        for requirement in optional[extra]:
            if own := re.fullmatch(rf"{project['name']}\[(.+)\]", requirement):
                found += dependencies(project, own[1].split(","))
            else:
                found.append(requirement)
    return list(dict.fromkeys(found))


if __name__ == "__main__":
    manifest = Path("pyproject.toml")
    print(*dependencies(tomllib.loads(manifest.read_text())["project"], sys.argv[1:]), sep="\n")
