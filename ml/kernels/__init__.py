"""Layers that compute the same function as torch's, faster on some processors."""
