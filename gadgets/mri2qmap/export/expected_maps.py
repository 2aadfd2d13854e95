"""Check of the output of a server: it must contain all maps that the pipeline produces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_slices import with_volumes
from mri2qmap.export.quantity import MAPS, OPTIONAL, QUANTITIES, WEIGHTED, Quantity
from mri2qmap.export.series_identity import Form, series_index
from mri2qmap.pipeline.items import DicomObject
from mri2qmap.pipeline.scan_header import ScanInfo

ESSENTIAL = (Quantity.T1, Quantity.T2, Quantity.PROTON_DENSITY)
PARAMETRIC = "parametric"
"""Folder of the Parametric Map objects; that of a classic series is its quantity."""

_WORDS = {Form.FLOAT: "float", Form.INTEGER: "uint16"}
_TYPES = {
    ismrmrd.DATATYPE_FLOAT: Form.FLOAT,
    ismrmrd.DATATYPE_CXFLOAT: Form.FLOAT,
    ismrmrd.DATATYPE_USHORT: Form.INTEGER,
}
_SAME_EXTENT = 1e-3
"""Relative tolerance of the field of view, which image headers store as float32."""
_SAME_PLACE_MM = 1e-2
"""Tolerance of positions [mm]."""


@dataclass(frozen=True)
class ExpectedMaps:
    """Maps that a pipeline produces. The defaults apply to an unknown pipeline.

    Attributes
    ----------
    quantities
        Quantities of the images.
    forms
        Forms of the images; empty if the pipeline produces no images.
    any_form
        Whether each quantity is required only once: in one of the forms or as DICOM.
    classic
        Quantities of the classic DICOM series. A Gadgetron server does not relay them.
    parametric
        Quantities of the Parametric Map objects.
    indices
        Series index of the images, if known; images of other software may have the same role.
    dicom, nifti
        Settings of `parametric_maps` for the files that the client makes from the images, if the
        server sends none.
    hint
        Possible reason for missing maps, added to the error message.
    """

    quantities: tuple[Quantity, ...] = ESSENTIAL
    forms: tuple[Form, ...] = (Form.FLOAT, Form.INTEGER)
    any_form: bool = True
    classic: tuple[Quantity, ...] = ()
    parametric: tuple[Quantity, ...] = ()
    indices: Mapping[tuple[Quantity, Form], int] = field(default_factory=dict)
    dicom: str = "both"
    nifti: bool = True
    hint: str = ""

    @classmethod
    def from_settings(cls, settings: Any, optional: Sequence[Quantity] = ()) -> ExpectedMaps:
        """Return the maps that `parametric_maps` produces.

        Parameters
        ----------
        settings
            Its `ParametricMapsSettings`.
        optional
            Those of `OPTIONAL` that the settings of other gadgets ask for.

        Raises
        ------
        Mri2QmapError
            If it produces neither images nor DICOM, which are all that a server can send.
        """
        maps = tuple(q for q in MAPS if q in optional or q not in OPTIONAL)
        weighted = tuple(WEIGHTED) if settings.synthetic_images else ()
        forms = {
            "float": (Form.FLOAT,),
            "uint16": (Form.INTEGER,),
            "both": (Form.FLOAT, Form.INTEGER),
            "none": (),
        }[settings.mrd]
        if not forms and settings.dicom == "none":
            raise Mri2QmapError(
                'parametric_maps: with mrd="none" and dicom="none", a server has nothing to send; '
                "enable one of them (NIfTI is made at the client from the float images)"
            )
        classic: tuple[Quantity, ...] = maps if settings.dicom in ("classic", "both") else ()
        classic += weighted if settings.dicom != "none" else ()
        parametric = maps if settings.dicom in ("parametric", "both") else ()
        return cls(
            quantities=maps + weighted,
            forms=forms,
            any_form=False,
            classic=classic,
            parametric=parametric,
            indices={
                (quantity, form): series_index(
                    quantity, form, settings.method, settings.series_offset
                )
                for quantity in QUANTITIES
                for form in Form
            },
            dicom=settings.dicom,
            nifti=settings.nifti,
        )

    def with_hint(self, hint: str) -> ExpectedMaps:
        """Return a copy with a hint."""
        return replace(self, hint=hint)


@dataclass(frozen=True)
class _DicomFacts:
    """Properties of the pixels of a DICOM object.

    Attributes
    ----------
    size
        Number of frames, rows and columns.
    finite
        Whether all values are finite.
    signal
        Whether a value is not zero.
    """

    size: tuple[int, int, int]
    finite: bool
    signal: bool


class ServerResponse:
    """Images and DICOM objects that a server has sent for one scan.

    Parameters
    ----------
    expected
        Maps that the pipeline produces.
    scan
        Scan header, which defines size and field of view of the maps.

    Attributes
    ----------
    dicom_received
        Whether DICOM objects of maps were received.
    """

    def __init__(self, expected: ExpectedMaps, scan: ScanInfo) -> None:
        self.dicom_received = False
        self._expected = expected
        self._scan = scan
        self._images: list[ismrmrd.Image] = []
        self._n_images = 0
        self._seen: set[bytes] = set()
        self._dicom: dict[str, list[_DicomFacts]] = {}

    def add(self, item: object) -> bool:
        """Add an item; return False if it is an identical copy of an earlier image of a map.

        Raises
        ------
        Mri2QmapError
            If the pixels of a DICOM object of a map cannot be read.
        """
        if isinstance(item, ismrmrd.Image):
            self._n_images += 1
            if _role(item) is None:
                return True
            digest = hashlib.sha256(bytes(item.getHead()))
            digest.update(np.ascontiguousarray(item.data).data)
            if digest.digest() in self._seen:
                return False
            self._seen.add(digest.digest())
            self._images.append(item)
        elif isinstance(item, DicomObject):
            name = _dicom_name(item.path)
            if name is not None:
                self.dicom_received = True
                self._dicom.setdefault(name, []).append(_facts(item))
        return True

    def checked_maps(self, dicom_is_sent: bool) -> list[ismrmrd.Image]:
        """Check that all expected maps are present and valid, and return their images.

        Unexpected images and files are ignored.

        Parameters
        ----------
        dicom_is_sent
            Whether the server sends the DICOM objects that the pipeline produces.

        Returns
        -------
        list
            Valid images of maps, as volumes.

        Raises
        ------
        Mri2QmapError
            If a map is missing or invalid; the message names it.
        """
        expected = self._expected
        found = self._usable(with_volumes(self._images))
        missing = self._missing(found)
        if missing and not (expected.any_form and self._has_series(expected.quantities)):
            raise Mri2QmapError(
                f"the server did not send all maps: {' and '.join(missing)} are missing "
                f"({self._n_images} images were received){self._hint()}"
            )
        if not expected.forms or dicom_is_sent or self.dicom_received:
            self._check_dicom()
        return list(found.values())

    def _usable(
        self, images: Sequence[ismrmrd.Image]
    ) -> dict[tuple[Quantity, Form], ismrmrd.Image]:
        """Return the images of maps by quantity and form, without invalid unexpected images."""
        expected = self._expected
        found: dict[tuple[Quantity, Form], ismrmrd.Image] = {}
        for quantity in sorted(QUANTITIES, key=lambda q: q not in expected.quantities):
            for form in sorted(Form, key=lambda f: f not in expected.forms):
                candidates = [
                    image
                    for image in images
                    if _role(image) is quantity
                    and _TYPES.get(image.data_type) is form
                    and image.data.shape[0] == 1
                ]
                if not candidates:
                    continue
                required = quantity in expected.quantities and form in expected.forms
                try:
                    image = self._one_of(candidates, quantity, form)
                    self._check(image, quantity, form)
                    if found:
                        first = next(iter(found))
                        _check_same_place(image, found[first], quantity, first[0])
                except Mri2QmapError:
                    if required:
                        raise
                else:
                    found[quantity, form] = image
        return found

    def _one_of(
        self, candidates: Sequence[ismrmrd.Image], quantity: Quantity, form: Form
    ) -> ismrmrd.Image:
        """Select the image of a map among those with its role."""
        index = self._expected.indices.get((quantity, form))
        right = [image for image in candidates if image.image_series_index == index]
        candidates = right or candidates
        right = [image for image in candidates if image.data.shape[1:] == self._scan.matrix]
        first, *others = right or candidates
        if any(not np.array_equal(first.data, o.data, equal_nan=True) for o in others):
            raise Mri2QmapError(
                f"the server sent two different {_WORDS[form]} images of {quantity}, and it is "
                "unknown which of them is correct"
            )
        return first

    def _check(self, image: ismrmrd.Image, quantity: Quantity, form: Form) -> None:
        """Refuse an image that is not a valid map of this scan."""
        pixels: NDArray[Any] = image.data[0]
        name = f"the server's {_WORDS[form]} image of {quantity}"
        if pixels.shape != self._scan.matrix:
            raise Mri2QmapError(
                f"{name} has the size {_size(pixels.shape)} (z, y, x), but the scan has "
                f"{_size(self._scan.matrix)}"
            )
        steps = zip(self._scan.matrix, self._scan.voxel_size, strict=True)
        extent = np.array([1e3 * n * step for n, step in steps])
        field_of_view = np.array(image.field_of_view[::-1], dtype=float)
        if not np.allclose(field_of_view, extent, rtol=_SAME_EXTENT, atol=0):
            raise Mri2QmapError(
                f"{name} has the field of view {_size(field_of_view)} mm (z, y, x), but the scan "
                f"has {_size(extent)} mm"
            )
        if not np.all(np.isfinite(pixels)):
            wrong = np.count_nonzero(~np.isfinite(pixels))
            raise Mri2QmapError(f"{name} has {wrong} of {pixels.size} values that are not finite")
        if not np.iscomplexobj(pixels) and pixels.min() < 0:
            raise Mri2QmapError(f"{name} has negative values, down to {pixels.min():g}")
        if quantity in ESSENTIAL and not np.any(pixels):
            raise Mri2QmapError(f"{name} is zero everywhere")

    def _missing(self, found: Mapping[tuple[Quantity, Form], ismrmrd.Image]) -> list[str]:
        """Describe the missing images."""
        expected = self._expected
        if expected.any_form:
            shown = {quantity for quantity, _ in found}
            lacking = [quantity for quantity in expected.quantities if quantity not in shown]
            return [f"images of {', '.join(lacking)}"] if lacking else []
        missing = []
        for form in expected.forms:
            lacking = [q for q in expected.quantities if (q, form) not in found]
            if lacking:
                missing.append(f"{_WORDS[form]} images of {', '.join(lacking)}")
        return missing

    def _has_series(self, quantities: Sequence[Quantity]) -> bool:
        """Return whether complete classic DICOM series of the quantities were received."""
        slices = self._scan.matrix[0]
        return all(len(self._dicom.get(quantity, ())) == slices for quantity in quantities)

    def _check_dicom(self) -> None:
        """Check the DICOM objects, which `mri2qmap serve` sends with one folder per series."""
        expected, (slices, rows, columns) = self._expected, self._scan.matrix
        series = {str(quantity): (quantity, slices, 1) for quantity in expected.classic}
        series |= {f"{PARAMETRIC}/{q}.dcm": (q, 1, slices) for q in expected.parametric}
        missing = [
            f"{name} ({len(self._dicom.get(name, ()))} of {count})"
            for name, (_, count, _) in series.items()
            if len(self._dicom.get(name, ())) < count
        ]
        if missing:
            raise Mri2QmapError(
                "the server did not send all maps: DICOM objects are missing of "
                f"{', '.join(missing)}{self._hint()}"
            )
        for name, (quantity, _, frames) in series.items():
            facts = self._dicom[name]
            for size in {fact.size for fact in facts}:
                # rows and columns may be swapped for display
                if size[0] != frames or sorted(size[1:]) != sorted((rows, columns)):
                    raise Mri2QmapError(
                        f"the server's DICOM object {name} has the size {_size(size)} (frames, "
                        f"rows, columns), but the scan has {_size(self._scan.matrix)} (z, y, x)"
                    )
            if not all(fact.finite for fact in facts):
                raise Mri2QmapError(f"the server's DICOM of {name} has values that are not finite")
            if quantity in ESSENTIAL and not any(fact.signal for fact in facts):
                raise Mri2QmapError(f"the server's DICOM of {name} is zero everywhere")

    def _hint(self) -> str:
        return f"; {self._expected.hint}" if self._expected.hint else ""


def _role(image: ismrmrd.Image) -> Quantity | None:
    """Return the quantity of an image or slice, according to its role; None if it is not a map."""
    role = image.meta.get("GADGETRON_DataRole")
    role = role[0] if isinstance(role, list) and role else role
    return next((q for q, spec in QUANTITIES.items() if spec.role == role), None)


def _dicom_name(path: str) -> str | None:
    """Return the series of a classic DICOM object, or the path of a Parametric Map; else None."""
    folder = path.partition("/")[0]
    if folder == PARAMETRIC:
        return path
    return folder if folder in list(Quantity) else None


def _facts(item: DicomObject) -> _DicomFacts:
    dataset = item.dataset
    try:
        pixels = dataset.pixel_array
        size = (int(dataset.get("NumberOfFrames", 1)), int(dataset.Rows), int(dataset.Columns))
    except Exception as error:  # decoders raise various types
        raise Mri2QmapError(
            f"the server sent DICOM that cannot be read ({item.path}: {error})"
        ) from error
    return _DicomFacts(size, bool(np.all(np.isfinite(pixels))), bool(np.any(pixels)))


def _check_same_place(
    image: ismrmrd.Image, first: ismrmrd.Image, quantity: Quantity, other: Quantity
) -> None:
    """Refuse maps of one scan with different positions or orientations."""
    for name in ("position", "read_dir", "phase_dir", "slice_dir"):
        found, expected = (np.array(getattr(i, name), dtype=float) for i in (image, first))
        if not np.allclose(found, expected, rtol=0, atol=_SAME_PLACE_MM):
            raise Mri2QmapError(
                f"the server's maps have different positions or orientations: {name} of {quantity} "
                f"is {_vector(found)}, that of {other} is {_vector(expected)}"
            )


def _vector(values: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _size(values: Sequence[float] | NDArray[Any]) -> str:
    return " x ".join(f"{value:g}" for value in values)
