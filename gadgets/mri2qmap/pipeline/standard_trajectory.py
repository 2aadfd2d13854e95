"""Trajectories in any unit and order of axes, converted to kx, ky, kz in cycles per voxel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pipeline.counters import CounterName, counter, limits_name
from mri2qmap.pipeline.header_document import parse_header
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile import ScanProfile, no_such_encoding
from mri2qmap.pipeline.trajectory_units import (
    LARGEST_COMPONENT,
    SMALLEST_EXTENT,
    cycles_per_voxel,
    possible_units,
)

_AXES = "xyz"


@dataclass(frozen=True)
class Partitions:
    """Partitions of a stack of two-dimensional trajectories.

    Attributes
    ----------
    axis
        Axis of the stack, 0 for x.
    counter
        Counter of the partitions.
    center
        Its value at the centre of k-space.
    field_of_view
        Field of view along the axis, the inverse of the distance of two partitions [m].
    """

    axis: int
    counter: CounterName
    center: int
    field_of_view: float

    @classmethod
    def of(cls, profile: ScanProfile, received: bytes) -> Partitions:
        """Return the partitions of a profile, with what a header as received says about them.

        Raises
        ------
        Mri2QmapError
            If the header cannot be read, has no such encoding or no field of view.
        """
        axis, own = profile.missing_axis, profile.partition_counter
        assert axis is not None, "the profile has a stack"
        assert own is not None, "the profile has a stack"
        encodings = parse_header(received).encoding
        if profile.encoding >= len(encodings):
            raise Mri2QmapError(no_such_encoding(profile, len(encodings)))
        encoding = encodings[profile.encoding]
        space, name = encoding.encodedSpace, _AXES[axis]
        extent = float(getattr(space.fieldOfView_mm, name)) * 1e-3
        if not 0 < extent < math.inf:
            raise Mri2QmapError(
                f"ISMRMRD header: encodedSpace.fieldOfView_mm.{name} is {extent * 1e3:g}; its "
                "inverse is the distance of partitions: a positive length is expected"
            )
        center = profile.partition_center
        if center is None:
            limits = getattr(encoding.encodingLimits, limits_name(own), None)
            if limits is not None and limits.maximum > 0:
                center = limits.center
        if center is None:
            center = int(getattr(space.matrixSize, name)) // 2
        return cls(axis, own, center, extent)


class StandardTrajectory:
    """Converts the trajectories of a scan.

    Parameters
    ----------
    profile
        Where the trajectories are, and in which convention.
    scan
        Header in the standard convention, parsed.
    partitions
        Those of a stack of two-dimensional trajectories; None: they have three columns.

    Raises
    ------
    Mri2QmapError
        If the file of the trajectories cannot be used.
    """

    def __init__(
        self, profile: ScanProfile, scan: ScanInfo, partitions: Partitions | None = None
    ) -> None:
        self._profile = profile
        self._scan = scan
        factors = cycles_per_voxel(profile.trajectory_units, scan)
        self._axes = [_AXES.index(axis[-1]) for axis in profile.trajectory_axes]
        signs = np.array([-1.0 if axis[0] == "-" else 1.0 for axis in profile.trajectory_axes])
        self._factors = signs * factors[self._axes]
        self._extent = np.zeros(3)
        self._checked = 0
        self._file = _loaded(profile) if profile.trajectory_file else None
        self._partitions = partitions

    def convert(
        self, acquisition: ismrmrd.Acquisition, place: tuple[int, int, int], name: str
    ) -> NDArray[np.float32]:
        """Return the trajectory (samples, 3) of an imaging acquisition [cycles/voxel].

        Parameters
        ----------
        acquisition
            As received.
        place
            Its frame and readout group, and the number of imaging acquisitions before it.
        name
            The acquisition, for messages.

        Raises
        ------
        Mri2QmapError
            If the trajectory is missing, has another number of columns, or is not plausible.
        """
        stored = self._stored(acquisition, place, name).astype(np.float64)
        converted = np.zeros((len(stored), 3))
        converted[:, self._axes] = stored * self._factors
        partitions = self._partitions
        if partitions is not None:
            number = counter(acquisition.idx, partitions.counter) - partitions.center
            spacing = self._scan.voxel_size[2 - partitions.axis] / partitions.field_of_view
            converted[:, partitions.axis] = number * spacing
        before, after = acquisition.discard_pre, acquisition.discard_post
        kept = slice(before, max(before, len(stored) - after))
        self._check(stored[kept], converted[kept], name)
        return np.ascontiguousarray(converted, np.float32)

    def _stored(
        self, acquisition: ismrmrd.Acquisition, place: tuple[int, int, int], name: str
    ) -> NDArray[np.floating]:
        """Return the trajectory (samples, columns) as it is stored."""
        columns = len(self._axes)
        if self._file is not None:
            return self._from_file(acquisition, place, name)
        dimensions = int(acquisition.trajectory_dimensions)
        if dimensions == columns:
            return np.asarray(acquisition.traj)
        found = "no trajectory" if dimensions == 0 else f"a {dimensions}D trajectory"
        advice = "give the trajectory in a file (trajectory_file)"
        if dimensions == 2:
            advice = (
                "name two trajectory_axes and the partition_counter of a stack of trajectories, or "
                + advice
            )
        elif dimensions == 3:
            advice = "name three trajectory_axes"
        raise Mri2QmapError(
            f"{self._where()}: {name}: it has {found}, but {columns} columns are expected "
            f"(trajectory_axes): {advice}"
        )

    def _from_file(
        self, acquisition: ismrmrd.Acquisition, place: tuple[int, int, int], name: str
    ) -> NDArray[np.floating]:
        file = self._file
        assert file is not None, "the profile names a file"
        known = dict(zip(("frame", "group", "arrival"), place, strict=True))
        index = tuple(
            known[each] if each in known else counter(acquisition.idx, each)
            for each in self._profile.trajectory_index
        )
        for axis, (what, value) in enumerate(
            zip(self._profile.trajectory_index, index, strict=True)
        ):
            if value >= file.shape[axis]:
                raise Mri2QmapError(
                    f"{self._where()}: {name}: its {what} is {value}, but trajectory_file has "
                    f"{file.shape[axis]} along this axis (shape {file.shape}): is "
                    "trajectory_index right?"
                )
        stored = np.asarray(file[index])
        samples = int(acquisition.number_of_samples)
        before, after = int(acquisition.discard_pre), int(acquisition.discard_post)
        if len(stored) == samples:
            return stored
        if len(stored) == samples - before - after:  # only the samples that are kept
            return np.pad(stored, ((before, after), (0, 0)))
        raise Mri2QmapError(
            f"{self._where()}: {name}: it has {samples} samples, of which {before + after} are "
            f"discarded, but trajectory_file has {len(stored)} samples for each readout"
        )

    def _check(
        self, stored: NDArray[np.float64], converted: NDArray[np.float64], name: str
    ) -> None:
        """Refuse trajectories that are too large, or too small in a whole readout group."""
        if not np.all(np.isfinite(converted)):  # refused later, with the sample
            return
        extent = np.zeros(3)
        if len(stored):
            extent[self._axes] = np.abs(stored).max(axis=0)
        self._extent = np.maximum(self._extent, extent)
        reached = float(np.abs(converted).max(initial=0))
        if reached > LARGEST_COMPONENT:
            self._refuse(f"{name}: its trajectory reaches {reached:.4g} cycles per voxel, more")
        self._checked += 1
        if self._checked == self._scan.sequence.n_frames:
            factors = np.zeros(3)
            factors[self._axes] = np.abs(self._factors)
            reached = float((self._extent * factors).max())
            if reached < SMALLEST_EXTENT:
                self._refuse(
                    f"the trajectories of {self._checked} acquisitions reach only {reached:.4g} "
                    "cycles per voxel, less"
                )

    def _refuse(self, what: str) -> None:
        units = self._profile.trajectory_units
        raise Mri2QmapError(
            f"{self._where()}: {what} than the edge of k-space at 0.5, if trajectory_units is "
            f"{units} and the header has the right matrix and field of view: "
            f"{possible_units(self._extent, self._scan, units)}"
        )

    def _where(self) -> str:
        return f"scan profile {self._profile.name}"


def _loaded(profile: ScanProfile) -> NDArray[np.floating]:
    """Open the file of the trajectories; its content is read when it is needed."""
    path = profile.trajectory_file
    where = f"scan profile {profile.name}: trajectory_file {path}"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise Mri2QmapError(f"{where}: it cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise Mri2QmapError(
            f"{where}: this is no array of numbers in NumPy format, .npy ({error})"
        ) from error
    if array.dtype.kind not in "iuf":
        raise Mri2QmapError(f"{where}: its numbers are {array.dtype}; real numbers are expected")
    axes = (*profile.trajectory_index, "samples", "columns")
    if array.ndim != len(axes) or array.shape[-1] != len(profile.trajectory_axes):
        raise Mri2QmapError(
            f"{where}: its shape is {array.shape}; ({', '.join(axes)}) with "
            f"{len(profile.trajectory_axes)} columns is expected (trajectory_index and "
            "trajectory_axes)"
        )
    return np.asarray(array)
