"""Classic MR Image series: one file per slice with integer pixels, supported by every PACS."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import DSfloat

import mri2qmap
from mri2qmap.export.dicom_common import (
    MANUFACTURER,
    contributing_equipment,
    real_world_mapping,
)
from mri2qmap.export.planes import slice_stack
from mri2qmap.export.series_identity import ExportRun, Form
from mri2qmap.export.volumes import QuantityVolume


def classic_series(volume: QuantityVolume, run: ExportRun) -> Iterator[Dataset]:
    """Convert a volume to MR Image Storage, slice by slice.

    Pixels are uint16 with the `steps_per_unit` of the volume, saturated at 4095. The
    RealWorldValueMappingSequence contains the factor to the unit of the quantity. RescaleSlope is
    omitted: it is not part of the MR Image IOD, and with values below 1 some viewers show a black
    image. If relaxation times were masked, PixelPaddingValue marks zeros as missing values.

    Parameters
    ----------
    volume
        Volume to convert.
    run
        Attributes shared by all series of the export.

    Yields
    ------
    Dataset
        Data set of each slice, in the order of `SliceStack`.
    """
    stack = slice_stack(volume.geometry)
    pixels = stack.arrange(volume.stored())
    series = _series(volume, run)
    for number, (plane, position) in enumerate(zip(pixels, stack.positions, strict=True), 1):
        dataset = Dataset()
        dataset.update(series)
        dataset.SOPInstanceUID = run.context.uid(Form.INTEGER, volume.quantity, str(number))
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = _decimals(position)
        dataset.ImageOrientationPatient = _decimals(stack.orientation)
        dataset.PixelSpacing = _decimals(stack.pixel_spacing)
        dataset.SliceThickness = _decimals([stack.slice_spacing])[0]
        dataset.SpacingBetweenSlices = dataset.SliceThickness
        dataset.Rows, dataset.Columns = plane.shape
        dataset.PixelData = plane.astype("<u2").tobytes()
        dataset.file_meta = _file_meta(dataset)
        yield dataset


def _decimals(values: np.typing.ArrayLike) -> list[DSfloat]:
    # adding 0 converts -0.0 to 0.0
    return [DSfloat(value, auto_format=True) for value in (np.asarray(values) + 0.0).tolist()]


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _series(volume: QuantityVolume, run: ExportRun) -> Dataset:
    """Return the attributes that all slices share."""
    context, series = run.context, run.series(volume, Form.INTEGER)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in {**context.attributes, **context.acquisition, **run.times}.items():
        setattr(dataset, keyword, value)
    if volume.echo is not None:
        dataset.ScanningSequence = "SE"
        dataset.SequenceVariant = "NONE"
        dataset.RepetitionTime, dataset.EchoTime = _decimals(volume.echo.milliseconds())
        for keyword in ("InversionTime", "FlipAngle"):
            if keyword in dataset:
                delattr(dataset, keyword)
    dataset.SOPClassUID = MRImageStorage
    dataset.Modality = "MR"
    dataset.ImageType = list(series.image_type)
    dataset.SeriesInstanceUID = series.uid
    dataset.SeriesNumber = series.number
    dataset.AcquisitionNumber = 1  # one continuous acquisition
    dataset.SeriesDescription = series.description
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "mri2qmap"
    dataset.SoftwareVersions = mri2qmap.__version__
    dataset.ContributingEquipmentSequence = contributing_equipment(context)
    dataset.DerivationDescription = series.derivation
    dataset.ImageComments = ". ".join(series.comments)
    if volume.spec.is_map:
        dataset.RealWorldValueMappingSequence = [real_world_mapping(volume, integer=True)]
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    if volume.padded:
        dataset.PixelPaddingValue = 0
    low, high = volume.stored_window
    dataset.WindowCenter = DSfloat(round((low + high) / 2))
    dataset.WindowWidth = DSfloat(round(high - low))
    return dataset
