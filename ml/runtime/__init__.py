"""One runtime for every verb: rows of a ragged batch, their keys and values in slots, and attention over them."""
