"""Writers of result files, one module for each format."""
