"""Where the units of a text are, from words to blocks: pure functions of text."""
