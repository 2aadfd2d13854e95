from helpers.denoiser_fixtures import weighted_folder
from helpers.fixtures import fake_gadgets, small_pipeline

__all__ = ["fake_gadgets", "small_pipeline", "weighted_folder"]
