"""Scans that are received now and reconstructed later, by a server that may be restarted."""
