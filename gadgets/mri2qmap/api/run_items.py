"""Parameter maps among the items of a run, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from mri2qmap.errors import Mri2QmapError
from mri2qmap.evaluation.maps import Maps
from mri2qmap.export.nifti import nifti_affine
from mri2qmap.export.quantity import WEIGHTED, Quantity
from mri2qmap.pipeline.items import Item, ParameterMaps
from mri2qmap.pipeline.scan_header import ScanInfo


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


def exported_maps(items: Iterable[Item], scan: ScanInfo, pipeline: str, settings: object) -> Maps:
    """Return the arrays of the maps, with the values that files get.

    Parameters
    ----------
    items
        Items that leave the reconstruction.
    scan
        The scan.
    pipeline
        Name of the pipeline, for messages.
    settings
        Settings of its last gadget, `parametric_maps`.

    Raises
    ------
    Mri2QmapError
        If there is not one set of parameter maps.
    """
    from mri2qmap.parametric_maps import ParametricMapsSettings, finished_volumes

    found = [item for item in items if isinstance(item, ParameterMaps)]
    if len(found) != 1 or not isinstance(settings, ParametricMapsSettings):
        raise Mri2QmapError(
            f"pipeline {pipeline}: one set of parameter maps is expected, found {len(found)}; the "
            "pipeline needs one combined_matching before parametric_maps"
        )
    exported = finished_volumes(found[0], scan, settings)
    volumes = {quantity: volume.values for quantity, volume in exported.volumes.items()}
    return Maps(
        volumes[Quantity.T1],
        volumes[Quantity.T2],
        exported.proton_density,
        match_quality=volumes[Quantity.MATCH_QUALITY],
        weighted={str(quantity): volumes[quantity] for quantity in WEIGHTED},
        t1_std=volumes.get(Quantity.T1_STD),
        t2_std=volumes.get(Quantity.T2_STD),
        consistency=volumes.get(Quantity.CONSISTENCY),
        receive_field=found[0].receive_field,
        receive_field_map=volumes.get(Quantity.RECEIVE_FIELD),
        affine=nifti_affine(found[0].geometry),
        geometry=found[0].geometry,
    )
