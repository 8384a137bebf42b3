"""Scores of semantic and instance segmentation."""
