"""Files of results: one module for each format."""
