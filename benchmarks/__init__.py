"""Measurements, one command each: `python -m benchmarks.NAME --json FILE`. They print a table; none of them is a test."""
