"""The items, the pipeline file, and the hosts that run it."""
