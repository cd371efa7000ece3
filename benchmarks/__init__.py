"""Benchmarks: one folder a claim, run with `python -m benchmarks.<folder>.run`."""
