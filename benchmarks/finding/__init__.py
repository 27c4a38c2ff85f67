"""How `benchmarks.hierarchical` looks for sources: contexts whose sources are known, or are found by asking for all."""
