"""The model's own forward and its own cache: right for every model, where the runtime is not."""
