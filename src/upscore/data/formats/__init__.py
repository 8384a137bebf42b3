"""Annotation formats: one module per format."""
