"""A small model, and an engine that serves it."""

from tests.fixtures.served import engine, known_engine, local_model, served_model, small_model, tokenizer_folder

__all__ = ["engine", "known_engine", "local_model", "served_model", "small_model", "tokenizer_folder"]
