"""Which cues a network relies on: objects, outlines or surroundings (FCN table 8)."""
