"""Experiments that train networks to find out what one's own data needs."""
