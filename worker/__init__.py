"""The RQ worker: a parent that never imports torch, and one resident child that holds the model."""
