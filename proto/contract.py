"""Checks the contract with buf: ``python proto/contract.py check``, and ``baseline`` for a break that is meant.

`check` holds the contract to the rules of ``buf.yaml``: its style, and that it breaks nobody who uses the contract in
``baseline.txtpb``. `baseline` makes the contract as it is now the one that is not to be broken.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gloss import protos

PROTO = Path(__file__).resolve().parent
CONFIGURATION = "buf.yaml"
BASELINE = "baseline.txtpb"
OURS = ("--path", "gloss")  # what is imported has rules of its own


def check(proto: Path) -> int:
    """Print what is wrong with the contract in a folder. Returns how many of the two checks failed."""
    with staged(proto) as folder:
        style = buf(folder, "lint", *OURS)
        breaks = buf(folder, "breaking", *OURS, "--against", str(proto / BASELINE))
    if breaks:
        print("The contract breaks its users. If that is meant: make contract-baseline", file=sys.stderr)
    return bool(style) + bool(breaks)


def baseline(proto: Path) -> int:
    """Write the contract in a folder as the one that is not to be broken, comments left out."""
    with staged(proto) as folder:
        return buf(folder, "build", *OURS, "--exclude-source-info", "-o", str(proto / BASELINE))


@contextmanager
def staged(proto: Path) -> Iterator[Path]:
    """A folder with the contract, all that it imports, and buf's configuration: buf reads nothing outside of one."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(proto / protos.PACKAGE, folder / protos.PACKAGE)
        for path in protos.ANNOTATIONS:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(protos.annotations_folder() / path, folder / path)
        shutil.copyfile(proto / CONFIGURATION, folder / CONFIGURATION)
        yield folder


def buf(folder: Path, *arguments: str) -> int:
    """Run the buf that stands beside this interpreter; its exit status."""
    return subprocess.run([Path(sys.executable).parent / "buf", *arguments], cwd=folder, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("action", choices=["check", "baseline"])
    parser.add_argument("--proto", type=Path, default=PROTO, help="folder that holds the contract")
    given = parser.parse_args()
    sys.exit({"check": check, "baseline": baseline}[given.action](given.proto.resolve()))
