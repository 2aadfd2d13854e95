"""Digital phantoms and the scans that they would give."""
