"""What coalitions are worth to the model: prompts in, values out, and what is kept of them."""
