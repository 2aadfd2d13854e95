"""Comparing maps with the truth."""
