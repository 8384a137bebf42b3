"""Fully convolutional networks (Shelhamer, Long, Darrell 2016)."""
