"""Measurements beside the best of the field, in the same run on the same machine: `python -m benchmarks`, or one of them."""
