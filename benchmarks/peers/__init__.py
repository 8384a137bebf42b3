"""Speed and memory of upscore against other libraries, as ratios; `benchmarks/speed.py` runs it."""
