"""Anatomies: label maps, tissue fractions and phantoms, with the parameters of their tissues."""
