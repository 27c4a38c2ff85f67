"""Draws answers for people: `inference` and `terminal` for rich consoles, `html` as a page, `words` in sentences."""
