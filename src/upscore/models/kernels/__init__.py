"""CPU implementations of operations that are faster than torch's."""
