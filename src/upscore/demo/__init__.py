"""`upscore demo`: runs and trains models on images in the package, and writes an HTML page."""
