"""`upscore demo`: trains small networks and writes a page about them."""
