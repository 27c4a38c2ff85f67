"""Gloss under attack: real processes that are killed, starved and lied to; see docs/reliability.md."""
