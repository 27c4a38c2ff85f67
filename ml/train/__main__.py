"""`python -m ml.train transformer|lstm --data DIR --out DIR`."""

from __future__ import annotations

import sys
from importlib.util import find_spec

MISSING = [name for name in ("torch", "matplotlib", "torchtext") if find_spec(name) is None]
if MISSING:
    print(f"error: training needs {' and '.join(MISSING)}, which `make train-deps` installs", file=sys.stderr)
    sys.exit(2)

from ml.train.cli import main  # noqa: E402 - after what it needs has been found

sys.exit(main())
