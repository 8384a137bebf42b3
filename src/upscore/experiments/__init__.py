"""Experiments of the papers that run on any data set."""
