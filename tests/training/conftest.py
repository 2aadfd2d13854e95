from helpers.denoiser_fixtures import (
    brain_images,
    label_folder,
    near_search,
    tiny_network,
    weighted_folder,
)
from helpers.simulation_fixtures import anatomy, labels, one_thread, scanned, short_sequence

__all__ = [
    "anatomy",
    "brain_images",
    "label_folder",
    "labels",
    "near_search",
    "one_thread",
    "scanned",
    "short_sequence",
    "tiny_network",
    "weighted_folder",
]
