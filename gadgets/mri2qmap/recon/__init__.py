"""Reconstruction algorithms."""
