"""How benchmarks of the hierarchical method look for sources: contexts whose sources are known, or are found by asking for all."""
