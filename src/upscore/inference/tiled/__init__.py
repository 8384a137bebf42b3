"""Tiled inference for images larger than memory and for images with more objects than the network detects at once."""
