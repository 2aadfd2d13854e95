"""Training of the denoisers."""
