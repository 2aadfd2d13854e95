"""Gadget: export of the parameter maps as DICOM, MRD images and NIfTI."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import ismrmrd
import numpy as np

import mri2qmap
from mri2qmap.errors import Mri2QmapError
from mri2qmap.export.mrd_images import Layout, float_images, integer_images
from mri2qmap.export.nifti import nifti_image, nifti_name
from mri2qmap.export.nifti_sidecar import nifti_sidecar
from mri2qmap.export.patient import scan_context
from mri2qmap.export.quantity import MAPS, QUANTITIES, WEIGHTED, Quantity
from mri2qmap.export.series_identity import DEFAULT_METHOD, ExportRun, scan_number
from mri2qmap.export.volumes import ExportVolumes, content_digest, export_volumes
from mri2qmap.machine.file_access import PushDestination
from mri2qmap.machine.value_checks import refuse_unless_below_one, refuse_unless_one_of
from mri2qmap.pacs.destination import parse_destination
from mri2qmap.pipeline.acquisition_stamp import AcquisitionStamp
from mri2qmap.pipeline.item_flow import ItemFlow
from mri2qmap.pipeline.items import DicomObject, Item, NiftiVolume, ParameterMaps, Provenance
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_log import scan_identity

DicomForm = Literal["classic", "parametric", "both", "none"]
MrdForm = Literal["float", "uint16", "both", "none"]

_MAX_METHOD = 32
_MAX_OFFSET = 60_000


@dataclass(frozen=True)
class ParametricMapsSettings:
    """Settings of `parametric_maps`.

    Attributes
    ----------
    dicom
        "classic" MR Image series, "parametric" map objects (the synthesised images stay classic),
        "both" or "none".
    mrd
        "float" images (T1 and T2 in ms, complex PD), "uint16" images with the pixels of the
        classic series for injection by a scanner's host, "both" or "none".
    mrd_layout
        "volume": one MRD image per map; "slices": one 2D image per slice, for clients that convert
        each image to DICOM. They do not support complex images, so PD is then a magnitude.
    lut
        Name of the colour table with which a scanner's host displays T1, T2 and their standard
        deviations, for example ``MicroDeltaHotMetal.pal`` on Siemens hosts; empty: grey scale.
    nifti
        Whether to export NIfTI volumes.
    synthetic_images
        Whether to export the synthesised T1w, T2w and PDw images, too.
    mask_threshold
        T1, T2, their standard deviations and the consistency are set to 0 where |PD| is below this
        fraction of its 99th percentile (or its local mean is below 1.5 times this fraction, see
        `object_mask`), because they are matches to noise there. 0 keeps all voxels.
    series_offset
        Offset of all series numbers, see `ExportRun.series`.
    method
        Name of the reconstruction method in the series descriptions. It also distinguishes UIDs and
        series numbers of two reconstructions of the same scan.
    push
        Where the DICOM objects are sent, ``AE@host:port`` or ``https://host/path``; empty: nowhere.
        They are put into the spool, and sent in the background; what cannot be sent is sent by the
        next ``mri2qmap push``. How the connection is made is what ``mri2qmap push`` was last told
        for this destination.
    spool
        Folder of the spool; none: that of ``mri2qmap push``.
    sheet
        Whether a sheet with the maps, their histograms and what is unusual in them is written and
        sent as a series of its own (Secondary Capture), next to the maps.
    """

    WITHOUT_EFFECT: ClassVar[tuple[str, ...]] = ("push", "spool", "sheet")
    """Settings that do not change what is in the maps, and therefore not their UIDs."""

    dicom: DicomForm = "both"
    mrd: MrdForm = "float"
    nifti: bool = True
    synthetic_images: bool = True
    mask_threshold: float = 0.05
    series_offset: int = 100
    method: str = DEFAULT_METHOD
    mrd_layout: Layout = "volume"
    lut: str = ""
    WRITTEN_TO: ClassVar[tuple[str, ...]] = ("spool",)
    """Settings that name a folder that is written to."""

    push: PushDestination = field(default="", repr=False)  # the text of the settings is in UIDs
    spool: Path | None = field(default=None, repr=False)
    sheet: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for name, form in (("dicom", DicomForm), ("mrd", MrdForm), ("mrd_layout", Layout)):
            refuse_unless_one_of(self, name, form)
        refuse_unless_below_one(self, "mask_threshold")
        if not 0 <= self.series_offset <= _MAX_OFFSET:
            raise ValueError(f"series_offset must be 0 to {_MAX_OFFSET}, got {self.series_offset}")
        if (
            not self.method.strip()
            or len(self.method) > _MAX_METHOD
            or not self.method.isprintable()
            or "\\" in self.method
        ):
            raise ValueError(
                f"method must have 1 to {_MAX_METHOD} printable characters and no backslash, "
                f"got {self.method!r}"
            )
        if not re.fullmatch(r"([A-Za-z0-9][\w .+-]{0,63})?", self.lut, re.ASCII):
            raise ValueError(
                "lut must be the name of a file without a path, at most 64 letters, digits and "
                f"_ . + -, or empty, got {self.lut!r}"
            )
        if self.push:
            try:
                parse_destination(self.push)
            except Mri2QmapError as error:
                raise ValueError(f"push: {error}") from error
        for name in ("push", "sheet"):
            if getattr(self, name) and self.dicom == "none":
                raise ValueError(f"{name} needs DICOM objects, and dicom is none")

    @property
    def item_flow(self) -> ItemFlow:
        """Items that the gadget consumes and yields."""
        written = {
            DicomObject: self.dicom != "none",
            ismrmrd.Image: self.mrd != "none",
            NiftiVolume: self.nifti,
        }
        gives = tuple(kind for kind, wanted in written.items() if wanted)
        return ItemFlow((ParameterMaps,), gives, ends=(ParameterMaps,))


def parametric_maps(
    items: Iterator[Item], scan: ScanInfo, settings: ParametricMapsSettings
) -> Iterator[Item]:
    """Export the maps.

    Consumes `Provenance` and `ParameterMaps` and yields `DicomObject`, `ismrmrd.Image` and
    `NiftiVolume` items for them. Images and finished DICOM and NIfTI items of earlier gadgets are
    passed on; all other items (acquisitions, coil maps, subspace images) are consumed.

    Raises
    ------
    Mri2QmapError
        If the stream contains no parameter maps or a second set, or if the maps have no finite
        value.
    """
    log_left_out(scan)
    arrived = False
    provenance: Provenance | None = None
    for item in items:
        if isinstance(item, Provenance):
            provenance = item
            if settings.dicom != "none":
                _load_dicom()  # while other processes reconstruct
        elif isinstance(item, ParameterMaps):
            if arrived:
                raise Mri2QmapError(
                    "parametric_maps: a second set of parameter maps arrived, but one per scan is "
                    "expected. Use only one combined_matching gadget in the pipeline."
                )
            arrived = True
            yield from _export(item, provenance, scan, settings)
        elif isinstance(item, ismrmrd.Image | DicomObject | NiftiVolume):
            yield item
    if not arrived:
        raise Mri2QmapError(
            "parametric_maps: the stream ended without parameter maps, so there is nothing to "
            "write. The pipeline needs combined_matching before parametric_maps, and the scan "
            "must reach it."
        )


def log_left_out(scan: ScanInfo) -> None:
    """Log the elements of the header that could not be read or that DICOM objects cannot have."""
    for line in scan.left_out:
        scan.report.log(f"parametric_maps: {line}")
    scan_context(scan.header, "", lambda line: scan.report.log(f"parametric_maps: {line}"))


def finished_volumes(
    maps: ParameterMaps, scan: ScanInfo, settings: ParametricMapsSettings
) -> ExportVolumes:
    """Return the volumes that are exported: finite, and masked as the settings demand.

    Raises
    ------
    Mri2QmapError
        If the maps hold no finite value, or T1 or T2 is zero everywhere.
    """
    exported = export_volumes(maps, settings.mask_threshold)
    scan.report.measure(voxels_not_finite=exported.not_finite)
    if exported.not_finite:
        scan.report.log(
            f"parametric_maps: {exported.not_finite} voxels are not finite and written as 0"
        )
    _refuse_empty_maps(exported, settings)
    return exported


def _load_dicom() -> None:
    """Import the modules that write DICOM, which takes seconds: no other gadget needs them."""
    from mri2qmap.export import classic_dicom, parametric_dicom

    del classic_dicom, parametric_dicom


def _export(
    maps: ParameterMaps,
    provenance: Provenance | None,
    scan: ScanInfo,
    settings: ParametricMapsSettings,
) -> Iterator[Item]:
    """Yield the maps in all enabled forms: first DICOM, then MRD and NIfTI."""
    exported = finished_volumes(maps, scan, settings)
    digest = "" if provenance is None else provenance.digest
    # maps of unknown provenance are identified by their content
    source = digest or content_digest(exported)
    run = ExportRun(
        context=scan_context(
            scan.header, f"{mri2qmap.__version__} {maps.geometry} {settings} {source}"
        ),
        method=settings.method,
        series_offset=settings.series_offset,
        scan_number=scan_number(scan.header),
        stamp=None if provenance is None else AcquisitionStamp.from_item(provenance),
        incomplete="" if provenance is None else provenance.incomplete,
        provenance=digest,
    )
    if settings.dicom != "none":
        objects = _dicom(exported, run, settings)
        if settings.sheet:
            objects = itertools.chain(objects, [_sheet(exported, run, scan, provenance)])
        if settings.push:
            from mri2qmap.pacs.inline import pushed

            objects = pushed(objects, settings.push, settings.spool, scan.report.log)
        yield from objects
    quantities = QUANTITIES if settings.synthetic_images else MAPS
    layout, lut = settings.mrd_layout, settings.lut
    for quantity in (quantity for quantity in quantities if quantity in exported.volumes):
        volume = exported.volumes[quantity]
        if settings.mrd in ("float", "both"):
            complex_map = quantity is Quantity.PROTON_DENSITY and layout == "volume"
            values = exported.proton_density if complex_map else None
            yield from float_images(volume, run, layout=layout, lut=lut, complex_values=values)
        if settings.mrd in ("uint16", "both"):
            yield from integer_images(volume, run, layout=layout, lut=lut)
        if settings.nifti:
            yield NiftiVolume(
                nifti_image(volume, run.incomplete), nifti_name(volume), nifti_sidecar(volume, run)
            )


def _sheet(
    exported: ExportVolumes, run: ExportRun, scan: ScanInfo, provenance: Provenance | None
) -> DicomObject:
    from mri2qmap.pipeline.scan_record import scan_record
    from mri2qmap.report.secondary_capture import sheet_object

    settings = {} if provenance is None else json.loads(provenance.settings)
    for name in ParametricMapsSettings.WITHOUT_EFFECT:
        settings.get("parametric_maps", {}).pop(name, None)
    record = {
        "gadgets": [{"name": name, "settings": own} for name, own in settings.items()],
        "incomplete": None if provenance is None else provenance.incomplete,
        "versions": {"mri2qmap": mri2qmap.__version__},
    }
    identity = scan_identity(b"", scan.header)
    dataset = sheet_object(exported.volumes.values(), record, scan_record(scan), identity, run)
    return DicomObject(dataset, "report/0001.dcm")


def _refuse_empty_maps(exported: ExportVolumes, settings: ParametricMapsSettings) -> None:
    """Refuse T1 or T2 maps that are zero everywhere although there is signal."""
    if settings.mask_threshold == 0 or not np.any(exported.proton_density):
        return
    for quantity in (Quantity.T1, Quantity.T2):
        if not np.any(exported.volumes[quantity].values):
            raise Mri2QmapError(
                f"parametric_maps: {quantity} is zero everywhere: no voxel reaches "
                f'mask_threshold="{settings.mask_threshold:g}" of the 99th percentile of |PD|, or '
                "all relaxation times are zero; reduce mask_threshold, and check the PD map"
            )


def _dicom(
    exported: ExportVolumes, run: ExportRun, settings: ParametricMapsSettings
) -> Iterator[DicomObject]:
    from mri2qmap.export.classic_dicom import classic_series
    from mri2qmap.export.parametric_dicom import parametric_map

    maps = [quantity for quantity in MAPS if quantity in exported.volumes]
    wanted = maps.copy() if settings.dicom in ("classic", "both") else []
    if settings.synthetic_images:
        wanted += WEIGHTED
    for quantity in wanted:
        for dataset in classic_series(exported.volumes[quantity], run):
            yield DicomObject(dataset, f"{quantity}/{dataset.InstanceNumber:04d}.dcm")
    if settings.dicom in ("parametric", "both"):
        for quantity in maps:
            dataset = parametric_map(exported.volumes[quantity], run)
            yield DicomObject(dataset, f"parametric/{quantity}.dcm")
