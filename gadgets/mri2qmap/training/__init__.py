"""Training of denoisers: data, random scans, optimisation and validation."""
