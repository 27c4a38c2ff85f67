"""A small model, and an engine that serves it."""

from tests.fixtures.served import engine, local_model, served_model, small_model, tokenizer_folder

__all__ = ["engine", "local_model", "served_model", "small_model", "tokenizer_folder"]
