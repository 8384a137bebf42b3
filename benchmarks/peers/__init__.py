"""Comparison of speed and memory with other libraries, run by `benchmarks/speed.py`."""
