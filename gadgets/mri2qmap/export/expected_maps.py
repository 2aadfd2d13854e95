"""What must have come from a server before its reconstruction counts as a success."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_slices import with_volumes
from mri2qmap.export.quantity import MAPS, QUANTITIES, UNCERTAINTY, WEIGHTED, Quantity
from mri2qmap.stream.scan_info import ScanInfo

ImageForm = Literal["float", "uint16", "any"]

ESSENTIAL = (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)
_FLOATS = (ismrmrd.DATATYPE_FLOAT, ismrmrd.DATATYPE_CXFLOAT)


@dataclass(frozen=True)
class ExpectedMaps:
    """Maps that a pipeline promises.

    Attributes
    ----------
    quantities
        What is shown.
    forms
        Forms of the images: "float", "uint16", or "any" one of these; empty if no images are made.
    classic, parametric
        Whether DICOM of these forms is made. A Gadgetron server does not pass DICOM on.
    """

    quantities: tuple[Quantity, ...] = ESSENTIAL
    forms: tuple[ImageForm, ...] = ("any",)
    classic: bool = False
    parametric: bool = False

    @classmethod
    def of(cls, settings: Any, uncertainty: bool) -> ExpectedMaps:
        """Maps that `parametric_maps` makes.

        Parameters
        ----------
        settings
            Its `ParametricMapsSettings`.
        uncertainty
            Whether the maps come with standard deviations.
        """
        maps = tuple(q for q in MAPS if uncertainty or q not in UNCERTAINTY)
        forms: tuple[ImageForm, ...] = ("float", "uint16") if settings.mrd == "both" else ()
        if settings.mrd in ("float", "uint16"):
            forms = (settings.mrd,)
        return cls(
            quantities=maps + (tuple(WEIGHTED) if settings.synthetic_images else ()),
            forms=forms,
            classic=settings.dicom in ("classic", "both"),
            parametric=settings.dicom in ("parametric", "both"),
        )


def refuse_missing_maps(
    images: Sequence[ismrmrd.Image],
    dicom_paths: Sequence[str],
    expected: ExpectedMaps,
    scan: ScanInfo,
) -> None:
    """Refuse an answer that lacks a map, or has one that cannot be used.

    Images and files that nobody asked for are of no concern.

    Parameters
    ----------
    images
        All that came.
    dicom_paths
        Paths of the DICOM objects that came, such as ``T1map/0001.dcm``.
    expected
        What was promised.
    scan
        The scan, for the size of the maps.

    Raises
    ------
    Mri2QmapError
        Naming what is missing or wrong.
    """
    volumes = with_volumes(images)
    for form in expected.forms:
        _check_images(volumes, form, expected.quantities, scan)
    if dicom_paths or not expected.forms:
        _check_dicom(dicom_paths, expected, scan.matrix[0])


def _check_images(
    images: Sequence[ismrmrd.Image],
    form: ImageForm,
    quantities: Sequence[Quantity],
    scan: ScanInfo,
) -> None:
    found: dict[Quantity, NDArray[Any]] = {}
    for image in images:
        quantity = _quantity(image)
        if quantity is None or quantity not in quantities or not _has_form(image, form):
            continue
        pixels = image.data[0]
        if quantity in found and form != "any" and not np.array_equal(found[quantity], pixels):
            raise Mri2QmapError(f"the server sent two different {form} images of {quantity}")
        found[quantity] = pixels
    missing = [str(quantity) for quantity in quantities if quantity not in found]
    if missing:
        kind = "" if form == "any" else f"{form} "
        raise Mri2QmapError(
            f"the server ended without sending a map: {kind}images of {', '.join(missing)} are "
            f"missing ({len(images)} images came, of {len(found)} of {len(quantities)} promised "
            "quantities)"
        )
    for quantity, pixels in found.items():
        if pixels.shape != scan.matrix:
            raise Mri2QmapError(
                f"the server's {quantity} has the size {pixels.shape} (z, y, x), and the scan "
                f"{scan.matrix}"
            )
        if not np.all(np.isfinite(pixels)):
            wrong = np.count_nonzero(~np.isfinite(pixels))
            raise Mri2QmapError(
                f"the server's {quantity} has {wrong} of {pixels.size} values that are not finite"
            )
        if quantity in ESSENTIAL and not np.any(pixels):
            raise Mri2QmapError(f"the server's {quantity} is zero everywhere")


def _check_dicom(paths: Sequence[str], expected: ExpectedMaps, slices: int) -> None:
    """DICOM is sent by `mri2qmap serve`, a folder a series."""
    count = Counter(path.partition("/")[0] for path in paths)
    maps = [quantity for quantity in expected.quantities if quantity in MAPS]
    promised = {}
    if expected.classic:
        promised = {str(quantity): slices for quantity in expected.quantities}
    if expected.parametric:
        promised["parametric"] = len(maps)
    missing = [
        f"{name} ({count[name]} of {number})"
        for name, number in promised.items()
        if count[name] < number
    ]
    if missing:
        raise Mri2QmapError(
            "the server ended without sending a map: DICOM objects are missing of "
            + ", ".join(missing)
        )


def _quantity(image: ismrmrd.Image) -> Quantity | None:
    """What an image shows, if it is one of ours."""
    role = image.meta.get("GADGETRON_DataRole")
    return next((q for q, spec in QUANTITIES.items() if spec.role == role), None)


def _has_form(image: ismrmrd.Image, form: ImageForm) -> bool:
    if form == "any":
        return image.data_type in (*_FLOATS, ismrmrd.DATATYPE_USHORT)
    return (image.data_type in _FLOATS) == (form == "float")
