from helpers.fixtures import fake_gadgets, small_pipeline

__all__ = ["fake_gadgets", "small_pipeline"]
