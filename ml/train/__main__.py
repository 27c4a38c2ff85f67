"""`python -m ml.train transformer|lstm --data DIR --out DIR`."""

from __future__ import annotations

import sys

from ml.train.cli import main

sys.exit(main())
