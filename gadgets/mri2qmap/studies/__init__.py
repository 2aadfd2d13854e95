"""The paper's experiments and the comparisons of denoisers."""
