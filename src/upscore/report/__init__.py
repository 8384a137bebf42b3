"""The demo and the page it ends in: one file that shows what was done, with all its pictures inside."""
