"""The contract's messages as `ml`'s dataclasses, and back. Imports no torch."""
