from helpers.fixtures import (
    endless_maps,
    fake_gadgets,
    large_items,
    maps_pipeline,
    small_pipeline,
)

__all__ = ["endless_maps", "fake_gadgets", "large_items", "maps_pipeline", "small_pipeline"]
