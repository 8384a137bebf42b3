"""Data set checks: statistics and issues."""
