"""The parts of `benchmarks.explain`: others' ways to an explanation, the arithmetic floor, and the figures."""
