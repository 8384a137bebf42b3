"""Data set checks: what a data set contains, and its faults."""
