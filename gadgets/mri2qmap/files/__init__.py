"""Scan files, output folders and B1 maps."""
