"""How benchmarks of coarse to fine look for sources: contexts whose sources are known or found by asking for all."""
