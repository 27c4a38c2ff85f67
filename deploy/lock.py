"""Write requirements.lock: `make lock`.

Resolves the `dev` extra, which holds all others, without installing anything. What the lock pins already stays at its
version, unless `--upgrade` asks for the newest of everything. Best run with the oldest Python that Gloss supports
(3.11.0 to 3.11.2, as Debian 12 has it): what is needed there only is then pinned too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
LOCK = CHECKOUT / "requirements.lock"
EXTRA = ".[dev]"

HEADER = """\
# Every version that Gloss is tested with, as constraints for pip: pip install -c requirements.lock -e ".[serve]"
# Made by `make lock`, which keeps these pins and adds or drops what pyproject.toml asks for; `make lock UPGRADE=1`
# takes the newest of everything. Do not edit it by hand.
# torch is pinned without a suffix such as +cpu, so that its CPU and CUDA builds both fit. The CUDA build brings its
# own exact pins for the CUDA libraries, which are therefore not repeated here.
"""
CUDA = re.compile(r"nvidia-|cuda-|triton$")


def resolve(*, upgrade: bool) -> dict[str, str]:
    """Ask pip which version of every package it would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    if LOCK.exists() and not upgrade:
        command += ["-c", str(LOCK)]
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([*command, "--report", report.name, "-e", EXTRA], check=True, cwd=CHECKOUT)  # noqa: S603
        packages = [item["metadata"] for item in json.load(report)["install"]]
    return {canonical(package["name"]): package["version"] for package in packages}


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def render(versions: dict[str, str]) -> str:
    """The lock file's text."""
    pins = (
        f"{name}=={version.partition('+')[0]}"
        for name, version in sorted(versions.items())
        if name != "gloss" and not CUDA.match(name)
    )
    return HEADER + "\n".join(pins) + "\n"


def main() -> None:
    """Resolve and write."""
    parser = argparse.ArgumentParser(prog="python -m deploy.lock", description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest version of everything")
    versions = resolve(upgrade=parser.parse_args().upgrade)
    LOCK.write_text(render(versions))
    print(f"{LOCK.name}: {len(versions)} packages")


if __name__ == "__main__":
    main()
