"""The package for OpenRecon and FIRE hosts: its label, what an operator may choose, its files."""
