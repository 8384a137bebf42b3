"""Superpixels and unsupervised segmentation, as baselines of semantic segmentation."""
