from helpers.fixtures import endless_maps, fake_gadgets, maps_pipeline, small_pipeline

__all__ = ["endless_maps", "fake_gadgets", "maps_pipeline", "small_pipeline"]
