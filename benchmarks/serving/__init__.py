"""The parts of `benchmarks.serve`: what is asked, who answers, and each figure's work."""
