from stream.fixtures import endless_maps, fake_gadgets, small_pipeline

__all__ = ["endless_maps", "fake_gadgets", "small_pipeline"]
