"""Contexts, questions and answers of the benchmark of citations, and the peer that it stands beside."""
