"""Gloss under attack: real processes that are killed, starved and lied to; see docs/reliability.md."""

import os

SCALE = float(os.environ.get("FAULTS_SCALE", "1"))
"""What the number of explanations is multiplied by; 1 takes a quarter of an hour."""
