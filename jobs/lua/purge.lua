-- Drop expired explanations from the indexes.
purge()
