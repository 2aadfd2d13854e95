"""Outputs that appear whole or not at all, and never replace foreign files."""
