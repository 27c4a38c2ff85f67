"""The two sides of `benchmarks.compare`: processes that take turns, and what their times say."""
