"""Speed and memory against peers, as ratios: `upscore bench`. Importing it imports nothing heavy."""
