"""Draws citations: an answer beside the passages that it rests on."""
