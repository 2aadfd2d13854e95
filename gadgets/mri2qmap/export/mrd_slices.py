"""Volumes of the slices in which maps may come."""

from __future__ import annotations

from collections.abc import Sequence

import ismrmrd
import numpy as np

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_meta import SLICE

_OF_A_SLICE = (
    "SliceNo",
    "AnatomicalSliceNo",
    "ChronSliceNo",
    "ProtocolSliceNumber",
    "IsmrmrdSliceNo",
    "AnatomicalPartitionNo",
    "Actual3DImagePartNumber",
    "NumberOfSlices",
    "ImagesInAcquisition",
    "slice_count",
    "partition_count",
    "SlicePosLightMarker",
    "SOPInstanceUID",
)


def with_volumes(images: Sequence[ismrmrd.Image]) -> list[ismrmrd.Image]:
    """Replace the slices that `mrd_layout="slices"` makes by the volumes that they are of.

    Other images stay as they are.

    Parameters
    ----------
    images
        In any order.

    Raises
    ------
    Mri2QmapError
        If a slice of a volume is missing or came twice, or if slices of one series differ in size.
    """
    series: dict[int, list[ismrmrd.Image]] = {}
    result = []
    for image in images:
        role = image.meta.get("GADGETRON_DataRole")
        if image.data.shape[1] == 1 and isinstance(role, list) and role[-1] == SLICE:
            series.setdefault(image.image_series_index, []).append(image)
        else:
            result.append(image)
    return result + [_volume(index, slices) for index, slices in series.items()]


def _volume(index: int, slices: Sequence[ismrmrd.Image]) -> ismrmrd.Image:
    ordered = sorted(slices, key=lambda image: image.slice)
    numbers = [image.slice for image in ordered]
    shapes = {image.data.shape for image in ordered}
    count = str(ordered[0].meta.get("NumberOfSlices"))
    if not count.isdecimal() or numbers != list(range(int(count))) or len(shapes) > 1:
        raise Mri2QmapError(
            f"images of series {index}: {len(slices)} slices of {len(shapes)} sizes came "
            f"(numbers {numbers[0]} to {numbers[-1]}), {count} of one size were expected, each "
            "once; send the scan again"
        )
    middle = ordered[len(ordered) // 2]
    head = middle.getHead()
    head.slice, head.image_index = 0, 1
    head.field_of_view[2] *= len(ordered)
    head.matrix_size[2] = len(ordered)
    meta = {name: value for name, value in middle.meta.items() if name not in _OF_A_SLICE}
    for name in ("ImageNumber", "NumberInSeries", "GADGETRON_ImageNumber"):
        meta[name] = "1"
    meta["GADGETRON_DataRole"] = middle.meta["GADGETRON_DataRole"][0]
    data = np.concatenate([image.data for image in ordered], axis=1)
    return ismrmrd.Image(head=head, data=data, meta=ismrmrd.Meta(meta))
