from helpers.simulation_fixtures import anatomy, labels, one_thread, scanned, short_sequence

__all__ = ["anatomy", "labels", "one_thread", "scanned", "short_sequence"]
