"""The tree of a text's parts, and what each part contributes."""
