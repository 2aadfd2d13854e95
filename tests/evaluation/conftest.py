from helpers.denoiser_fixtures import brain_images, label_folder, tiny_network, weighted_folder

__all__ = ["brain_images", "label_folder", "tiny_network", "weighted_folder"]
