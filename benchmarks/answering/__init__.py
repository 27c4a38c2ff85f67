"""Explanations of predictions whose reason is known, and how often they find it."""
