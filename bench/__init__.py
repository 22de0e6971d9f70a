"""Benchmarks: side by side with what a user would use instead, in one run, as ratios. `make bench` runs them all."""
