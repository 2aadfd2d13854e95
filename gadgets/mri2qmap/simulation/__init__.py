"""Simulated fingerprinting scans of anatomies, with their true parameter maps."""
