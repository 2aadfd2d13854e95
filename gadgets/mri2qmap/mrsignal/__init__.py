"""Signal models: sequence, extended phase graphs, dictionary, synthesis, matching."""
