"""Gloss under attack: real processes that are killed, starved and lied to; see docs/reliability.md."""

import os

SCALE = float(os.environ.get("FAULTS_SCALE", "1"))
"""How many times as many explanations are tried as in a quarter of an hour."""
