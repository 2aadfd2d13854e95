"""Anatomies: label maps, fraction maps, the ICBM brain, the system phantom, and their tissues."""
