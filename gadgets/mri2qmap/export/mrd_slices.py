"""Assembly of volumes from maps that are sent as slices."""

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

_SAME_PLACE = 0.01
"""Tolerance of the position of a slice [slice thicknesses]."""


def with_volumes(images: Sequence[ismrmrd.Image]) -> list[ismrmrd.Image]:
    """Replace slices, written with `mrd_layout="slices"`, by the volumes that they form.

    Other images are returned unchanged.

    Parameters
    ----------
    images
        Images in any order.

    Raises
    ------
    Mri2QmapError
        If a slice of a volume is missing or duplicated, or if slices of one series differ in size
        or are not adjacent.
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
    shapes = {(image.data.shape, image.data_type) for image in ordered}
    count = str(ordered[0].meta.get("NumberOfSlices"))
    if not count.isdecimal() or numbers != list(range(int(count))) or len(shapes) > 1:
        raise Mri2QmapError(
            f"images of series {index}: {len(slices)} slices of {len(shapes)} sizes were received "
            f"(numbers {numbers[0]} to {numbers[-1]}{_wrong(numbers, count)}), but {count} slices "
            "of one size are expected, each once; send the scan again"
        )
    middle = ordered[len(ordered) // 2]
    _refuse_other_places(index, ordered, middle)
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


def _wrong(numbers: Sequence[int], count: str) -> str:
    """List slices that are missing or duplicated."""
    expected = range(min(int(count), 2**16)) if count.isdecimal() else range(0)
    missing = [number for number in expected if number not in numbers]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    words = (("missing", missing), ("duplicated", twice))
    return "".join(
        f", {word}: {', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''}"
        for word, found in words
        if found
    )


def _refuse_other_places(
    index: int, slices: Sequence[ismrmrd.Image], middle: ismrmrd.Image
) -> None:
    """Refuse slices whose positions do not match their numbers."""
    thickness = float(middle.field_of_view[2])
    step = thickness * np.array(middle.slice_dir, dtype=float)
    origin = np.array(middle.position, dtype=float)
    tolerance = _SAME_PLACE * thickness
    for image in slices:
        place = origin + (image.slice - middle.slice) * step
        vectors = ("read_dir", "phase_dir", "slice_dir", "field_of_view")
        same = all(
            np.allclose(getattr(image, name), getattr(middle, name), rtol=1e-4, atol=1e-4)
            for name in vectors
        )
        if not same or not np.allclose(image.position, place, rtol=1e-5, atol=tolerance):
            found = ", ".join(f"{p:.4g}" for p in image.position)
            raise Mri2QmapError(
                f"images of series {index}: slice {image.slice} is at ({found}) mm, or has another "
                f"orientation; ({', '.join(f'{p:.4g}' for p in place)}) mm and the orientation of "
                f"slice {middle.slice} are expected, for a slice thickness of {thickness:.4g} mm"
            )
