from helpers.denoiser_fixtures import (
    brain_images,
    label_folder,
    near_search,
    tiny_network,
    weighted_folder,
)

__all__ = ["brain_images", "label_folder", "near_search", "tiny_network", "weighted_folder"]
