"""The contract's messages as `ml`'s dataclasses, and back: all that the server, the worker and the jobs convert."""
