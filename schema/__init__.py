"""The contract's messages as `ml`'s dataclasses, and back, for whoever serves or computes. Imports no torch."""
