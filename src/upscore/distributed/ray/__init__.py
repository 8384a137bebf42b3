"""Prediction and evaluation on a Ray cluster."""
