import pytest
from helpers.fixtures import fake_gadgets, small_pipeline

__all__ = ["fake_gadgets", "small_pipeline"]

pytest.importorskip(
    "distributed", reason="distributed is missing; pip install 'mri2qmap[cohort]' installs it"
)
