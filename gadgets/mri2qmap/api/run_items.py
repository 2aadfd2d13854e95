"""Parameter maps that are kept while a run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from mri2qmap.pipeline.items import Item, ParameterMaps


def noted_maps(items: Iterator[Item], maps: list[ParameterMaps]) -> Iterator[Item]:
    """Pass items on, and add the parameter maps among them to `maps`."""
    for item in items:
        if isinstance(item, ParameterMaps):
            maps.append(item)
        yield item


def on_cpu(maps: ParameterMaps) -> ParameterMaps:
    """Copy maps to the CPU, so that keeping them keeps no memory of a GPU."""
    tensors: dict[str, Any] = {
        name: value.cpu() for name, value in vars(maps).items() if isinstance(value, torch.Tensor)
    }
    return replace(maps, **tensors)
