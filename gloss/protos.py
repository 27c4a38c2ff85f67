"""Where the contract's ``.proto`` files are, for compilers of other languages.

    python -m gloss.protos            # the folders to import from, one a line
    python -m gloss.protos FOLDER     # copy all that a compiler needs into one folder

The contract is next to its generated Python modules, and the annotations that it imports are in
`googleapis-common-protos`. Every compiler brings ``google/protobuf``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from google.api import field_behavior_pb2

PACKAGE = Path("gloss/v1")
ANNOTATIONS = (Path("google/api/field_behavior.proto"), Path("google/api/resource.proto"))
"""What the contract imports apart from ``google/protobuf``."""


def contract_folder() -> Path:
    """The folder to import ``gloss/v1/*.proto`` from; for an installed package the one that contains `gloss`."""
    around = Path(__file__).resolve().parents[1]
    checkout = around / "proto"  # where the sources are; an installed package has them in its own folder
    return checkout if (checkout / PACKAGE).is_dir() else around


def annotations_folder() -> Path:
    """The folder to import ``google/api/*.proto`` from."""
    return Path(field_behavior_pb2.__file__).resolve().parents[2]


def copy(to: Path) -> None:
    """Copy the contract and its imports into a folder, which is created if it is missing."""
    sources = [path.relative_to(contract_folder()) for path in sorted((contract_folder() / PACKAGE).glob("*.proto"))]
    for folder, paths in ((contract_folder(), sources), (annotations_folder(), ANNOTATIONS)):
        for path in paths:
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, to / path)


def main() -> None:
    """Print the folders, or fill one."""
    parser = argparse.ArgumentParser(prog="python -m gloss.protos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="copy the files there instead of printing where they are")
    to = parser.parse_args().folder
    if to is not None:
        try:
            copy(to)
        except OSError as error:
            parser.error(f"{error.filename}: {error.strerror}")
        return
    for folder in dict.fromkeys((contract_folder(), annotations_folder())):
        print(folder)


if __name__ == "__main__":
    main()
