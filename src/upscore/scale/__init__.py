"""The verbs over many processes and many machines, by Ray Data."""
