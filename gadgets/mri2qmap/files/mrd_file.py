"""ISMRMRD (MRD) files in HDF5: reading of scans in blocks, writing of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_header_dtype, waveform_header_dtype
from numpy.lib import recfunctions
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.files.closing import ClosesFile
from mri2qmap.pipeline.findings import ScanError, scan_error
from mri2qmap.pipeline.items import Item
from mri2qmap.pipeline.xml_document import as_utf8
from mri2qmap.storage.hdf5 import Hdf5Target

USUAL_GROUP = "dataset"
BLOCK_BYTES = 32 * 2**20
"""Approximate size of the blocks in which acquisitions are read [bytes].

Reading them one by one takes ten times as long."""

_DAMAGE = (OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError)
"""Exceptions that h5py raises for damaged files."""

MRD_2 = (
    "this is an MRD version 2 file, but ISMRMRD (version 1) is expected",
    "",
    "convert it with 'pip install mrd-python' and "
    "'python -m mrd.tools.mrd_to_ismrmrd -i MRD_STREAM -o SCAN.mrd'",
)
"""Finding on MRD version 2, in HDF5 or as a stream: what it is, what is expected, what to do."""

COPY_AGAIN = "copy it again from where it was made"


class MrdFile(ClosesFile):
    """A scan in an ISMRMRD HDF5 file, open for reading.

    Parameters
    ----------
    path
        Path of the file.
    group
        HDF5 path of the group with the scan; None: the only group with a scan.

    Attributes
    ----------
    header
        XML header, in an encoding without zero bytes.
    name
        File and group, for messages.
    n_acquisitions, n_waveforms
        Number of acquisitions and waveforms.
    left_out
        Always empty; see `MrdStreamFile`.

    Raises
    ------
    Mri2QmapError
        If the file does not exist, is not HDF5, is truncated or contains no scan, or if it contains
        several scans and `group` is None.
    """

    _file: h5py.File

    def __init__(self, path: str | Path, group: str | None = None) -> None:
        self.path = Path(path)
        self.left_out: Counter[str] = Counter()
        if not self.path.is_file():
            what = "it is not a file" if self.path.exists() else "the file does not exist"
            expected = "an ISMRMRD file (HDF5) is expected"
            raise scan_error("file-missing", str(path), what, expected, "check the path")
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise _not_opened(self.path, error) from error
        try:
            self._group = self._find_group(group)
            self.header = self._read_header()
            self._data = self._find_data()
            self._waveforms = self._find_waveforms()
            self.n_acquisitions = len(self._data)
            self.n_waveforms = 0 if self._waveforms is None else len(self._waveforms)
        except _DAMAGE as error:
            self._file.close()
            what = f"it cannot be read as ISMRMRD: the file is damaged ({_first_line(error)})"
            raise scan_error("file-damaged", str(path), what, "", COPY_AGAIN) from error
        except BaseException:
            self._file.close()
            raise
        self.name = f"{path}, group {self._place}"

    def items(self) -> Iterator[Item]:
        """Yield the acquisitions in the order of the file, then the waveforms."""
        yield from self.acquisitions()
        if self._waveforms is not None:
            for number, (head, data) in enumerate(self._rows(self._waveforms, "waveform")):
                header = ismrmrd.WaveformHeader.from_buffer_copy(head)
                if data.size != header.channels * header.number_of_samples:
                    raise Mri2QmapError(
                        f"{self.path}: waveform {number} is damaged: it has {data.size} values for "
                        f"{header.channels} channels of {header.number_of_samples} samples"
                    )
                yield ismrmrd.Waveform(header, np.asarray(data, dtype=np.uint32))

    def acquisitions(self) -> Iterator[ismrmrd.Acquisition]:
        """Yield the acquisitions in the order of the file.

        Raises
        ------
        Mri2QmapError
            If a block cannot be read, or the data of an acquisition contradict its header.
        """
        for number, (head, trajectory, data) in enumerate(self._rows(self._data, "acquisition")):
            header = ismrmrd.AcquisitionHeader.from_buffer_copy(head)
            n, coils, dimensions = (
                header.number_of_samples,
                header.active_channels,
                header.trajectory_dimensions,
            )
            if data.size != 2 * n * coils or trajectory.size != n * dimensions:
                raise scan_error(
                    "acquisition-damaged",
                    str(self.path),
                    f"acquisition {number} is damaged: it has {data.size} data values and "
                    f"{trajectory.size} trajectory values, but {coils} coils, {n} samples and "
                    f"{dimensions} trajectory dimensions need {2 * n * coils} and {n * dimensions}",
                    "",
                    COPY_AGAIN,
                )
            yield ismrmrd.Acquisition(
                header,
                np.ascontiguousarray(data, np.float32).view(np.complex64).reshape(coils, n),
                np.ascontiguousarray(trajectory, np.float32).reshape(n, dimensions),
            )

    def _rows(self, table: h5py.Dataset, what: str) -> Iterator[tuple[Any, ...]]:
        """Yield (header bytes, arrays...) for each row of a table; read it in blocks."""
        dtype = acquisition_header_dtype if what == "acquisition" else waveform_header_dtype
        arrays = ("traj", "data") if what == "acquisition" else ("data",)
        start, block = 0, 1
        while start < len(table):
            stop = min(start + block, len(table))
            try:
                rows = table[start:stop]
            except _DAMAGE as error:
                raise scan_error(
                    "file-damaged",
                    str(self.path),
                    f"{what}s {start} to {stop - 1} cannot be read: the file is damaged or "
                    f"truncated ({_first_line(error)})",
                    "",
                    COPY_AGAIN,
                ) from error
            heads = _as_packed(rows["head"], dtype)
            size = 0
            for i, head in enumerate(heads):
                values = tuple(rows[name][i] for name in arrays)
                size += len(head) + sum(v.nbytes for v in values)
                yield (head, *values)
            block = max(1, min(256, BLOCK_BYTES * (stop - start) // max(1, size)))
            start = stop

    @property
    def _place(self) -> str:
        """Name of the group without the leading slash."""
        return _shown(self._group.name or "").removeprefix("/")

    def _find_group(self, name: str | None) -> h5py.Group:
        """Return the group with this name, or by default the only group with a scan."""
        scans, parts = self._groups()
        if name is not None:
            group = _member(self._file, name)
            if isinstance(group, h5py.Group):
                return group
            raise scan_error(
                "group-missing",
                str(self.path),
                f"the group {name!r} does not exist",
                f"groups with a scan: {_shown(', '.join(scans)) or 'none'}",
                "select one of them (--group, or group=)",
            )
        if len(scans) == 1:
            return self._file[scans[0]]
        if scans:
            found = ", ".join(f"{s} ({len(self._file[s]['data'])} acquisitions)" for s in scans)
            raise scan_error(
                "several-scans",
                str(self.path),
                f"{len(scans)} groups contain a scan, {_shown(found)}",
                "one is reconstructed at a time",
                "select one (--group, or group=)",
            )
        if "$yardl_schema" in self._file or any("$yardl_schema" in self._file[p] for p in parts):
            raise scan_error("mrd-version-2", str(self.path), *MRD_2)
        if USUAL_GROUP in parts or len(parts) == 1:  # the caller reports what is missing
            return self._file[USUAL_GROUP if USUAL_GROUP in parts else parts[0]]
        members = ", ".join(sorted(self._file)) or "nothing"
        raise scan_error(
            "no-scan",
            str(self.path),
            f"group '{USUAL_GROUP}' is missing, and no other group contains a scan (the XML header "
            "'xml' and the acquisitions 'data')",
            f"the file contains: {_shown(members)}",
            "write header and acquisitions into one group",
        )

    def _groups(self) -> tuple[list[str], list[str]]:
        """Return the names of the groups, at any depth, with a scan and with a part of a scan."""
        scans: list[str] = []
        parts: list[str] = []

        def visit(name: str, member: object) -> None:
            if not isinstance(member, h5py.Group):
                return
            if isinstance(_member(member, "xml"), h5py.Dataset) and _is_table(member):
                scans.append(name)
            elif "xml" in member or "data" in member or "$yardl_schema" in member:
                parts.append(name)

        visit("/", self._file)
        self._file.visititems(visit)
        return scans, parts

    def _read_header(self) -> bytes:
        """Return the header, stored in HDF5 as any type of text or bytes."""
        xml = _member(self._group, "xml")
        if not isinstance(xml, h5py.Dataset):
            raise scan_error(
                "header-missing",
                str(self.path),
                f"the XML header ('{self._place}/xml') is missing, so the sequence is unknown",
                "",
                "write it there",
            )
        try:
            values = np.ravel(xml[()])
            value = values if values.dtype == np.uint8 else values[0]
            document = value.encode() if isinstance(value, str) else bytes(value)
            return as_utf8(document)
        except _DAMAGE as error:
            what = f"the XML header cannot be read: the file is damaged ({_first_line(error)})"
            raise scan_error("file-damaged", str(self.path), what, "", COPY_AGAIN) from error

    def _find_data(self) -> h5py.Dataset:
        data = _member(self._group, "data")
        if not isinstance(data, h5py.Dataset) or data.dtype.names is None:
            what = f"the acquisitions ('{self._place}/data') are missing"
            raise scan_error("data-missing", str(self.path), what, "", "write them there")
        missing = {"head", "traj", "data"} - set(data.dtype.names)
        if missing:
            what = f"the table of acquisitions lacks the field {', '.join(sorted(missing))}"
            raise scan_error(
                "data-missing", str(self.path), what, "", "write it as the ISMRMRD library does"
            )
        return data

    def _find_waveforms(self) -> h5py.Dataset | None:
        waveforms = _member(self._group, "waveforms")
        if waveforms is None:
            return None
        names = waveforms.dtype.names if isinstance(waveforms, h5py.Dataset) else None
        if names is None or not {"head", "data"} <= set(names):
            raise Mri2QmapError(
                f"{self.path}: '{self._place}/waveforms' is not a table of waveforms"
            )
        return waveforms


class MrdImageWriter:
    """Writes images to an ISMRMRD file, one HDF5 group per series.

    Parameters
    ----------
    path
        Path of the new file.
    header
        XML header of the scan, written to the file.

    Attributes
    ----------
    n_images
        Number of images written.

    Raises
    ------
    OSError
        If the file cannot be created; also raised by `write` and `close` on disk errors.
    """

    def __init__(self, path: str | Path, header: bytes) -> None:
        self._target = Hdf5Target(Path(path))
        self._dataset = ismrmrd.Dataset(self._target, mode="w")
        self._dataset.write_xml_header(header)
        self.n_images = 0

    def write(self, image: ismrmrd.Image) -> None:
        """Append `image` to the group ``image_<series index>``."""
        self._dataset.append_image(f"image_{image.image_series_index}", image)
        self._target.check()
        self.n_images += 1

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()
        self._target.close()
        self._target.check()


def _member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """Return a member of a group; None if it does not exist or is a broken link."""
    try:
        return group.get(name)
    except (OSError, LookupError, ValueError):
        return None


def _shown(name: str | bytes) -> str:
    """Return a printable form of a name; HDF5 names may not be valid UTF-8."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    return name.encode("utf-8", "backslashreplace").decode()


def _is_table(group: h5py.Group) -> bool:
    data = _member(group, "data")
    return isinstance(data, h5py.Dataset) and data.dtype.names is not None


def _as_packed(heads: NDArray[Any], dtype: np.dtype[Any]) -> list[bytes]:
    """Return each header in the byte layout of the ISMRMRD library; that of the file may differ."""
    if heads.dtype != dtype:
        packed = np.zeros(heads.shape, dtype)
        recfunctions.assign_fields_by_name(packed, heads)
        heads = packed
    size = dtype.itemsize
    content = heads.tobytes()
    return [content[i : i + size] for i in range(0, len(content), size)]


def _not_opened(path: Path, error: OSError) -> ScanError:
    name, text = str(path), _first_line(error)
    expected = "an ISMRMRD file is expected"
    if isinstance(error, PermissionError):
        what = "it cannot be read (permission denied)"
        return scan_error("file-unreadable", name, what, "", "change its permissions")
    if "truncated" in text:
        what = f"the HDF5 file is truncated ({text})"
        return scan_error("file-truncated", name, what, "", COPY_AGAIN)
    if path.stat().st_size == 0:
        what = "it is empty: it is neither an HDF5 file nor an ISMRMRD stream"
        return scan_error("file-empty", name, what, expected, COPY_AGAIN)
    if not h5py.is_hdf5(path):
        what = "it is neither an HDF5 file nor an ISMRMRD stream"
        return scan_error("not-ismrmrd", name, what, expected, "convert the raw data")
    what = f"the HDF5 file cannot be opened ({text})"
    return scan_error("file-unreadable", name, what, "", COPY_AGAIN)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
