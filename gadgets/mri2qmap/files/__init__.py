"""Output that never costs anybody a file: whole files, folders put in place, own files known."""
