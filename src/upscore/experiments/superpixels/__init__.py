"""Unsupervised segmentation by superpixels and clustering, as a baseline."""
