"""Writer of simulated scans as ISMRMRD files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
from ismrmrd.hdf5 import acquisition_dtype
from numpy.typing import NDArray

from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pipeline.geometry import Geometry
from mri2qmap.pipeline.progress import Reporter
from mri2qmap.storage.hdf5 import Hdf5Target
from mri2qmap.storage.written import add_mark

PROTON_HZ_PER_TESLA = 42.577478e6
FIELD_STRENGTH_T = 3.0
TICK_S = 2.5e-3
"""Unit of acquisition time stamps [s]."""

START_OF_SCAN_S = 9 * 3600.0
"""Time of day of the first inversion [s]."""

RECOVERY_S = 1.5
"""Recovery time between groups [s]; a group then takes 7.5 s as in the paper."""

DWELL_S = 4e-6
"""Dwell time of the samples [s]; shorter if the readout would not fit."""

CHANNELS_PER_WORD = 64
NO_FLAGS = 0


@dataclass(frozen=True)
class RawScan:
    """All samples of a scan.

    Attributes
    ----------
    kspace
        (groups, frames, coils, samples) complex64.
    trajectory
        (groups, frames, samples, 3) float32, columns kx, ky, kz [cycles/voxel].
    noise
        Noise scans (scans, coils, samples) complex64; of length 0 if there are none.
    sequence
        Timing and flip angles of one group.
    geometry
        Position of the grid in the patient.
    subject
        Name of the anatomy, for the header.
    protocol
        Description of the simulation in one line, for the header.
    """

    kspace: NDArray[np.complex64]
    trajectory: NDArray[np.float32]
    noise: NDArray[np.complex64]
    sequence: Sequence
    geometry: Geometry
    subject: str
    protocol: str


def write_scan(path: Path, scan: RawScan, report: Reporter | None = None) -> None:
    """Write a scan as ISMRMRD HDF5: header, noise scans, then the groups.

    A mark at the end of the file identifies it later as written here and unchanged, see
    `mri2qmap.storage.written.has_mark`. HDF5 readers ignore it.

    Acquisitions are written in blocks of one group. Writing them one by one, as
    `ismrmrd.Dataset.append_acquisition` does, takes ten times as long.

    Parameters
    ----------
    path
        Output file.
    scan
        The scan.
    report
        Receives the progress.

    Raises
    ------
    OSError
        If the file exists already, or cannot be written.
    """
    report = report or Reporter()
    groups, frames = scan.kspace.shape[:2]
    n_noise = len(scan.noise)
    total = n_noise + groups * frames
    with closing(Hdf5Target(path)) as target:
        with h5py.File(target, "w") as file:
            group = file.create_group("dataset")
            header = group.create_dataset("xml", (1,), dtype=h5py.special_dtype(vlen=bytes))
            header[0] = ismrmrd.xsd.ToXML(ismrmrd_header(scan)).encode()
            data = group.create_dataset(
                "data", (total,), maxshape=(None,), dtype=acquisition_dtype, chunks=(16,)
            )
            if n_noise:
                data[:n_noise] = _noise_block(scan)
            for number in report.progress(range(groups), "writing", total=groups):
                first = n_noise + number * frames
                data[first : first + frames] = _group_block(scan, number, first, total)
                target.check()
        target.close()
        target.check()
    add_mark(path)


class Acquisitions:
    """Acquisitions of a scan in memory: equal to those read from the file of `write_scan`.

    They are made each time they are iterated over, so a consumer may change them.
    """

    def __init__(self, scan: RawScan) -> None:
        self._scan = scan

    def __len__(self) -> int:
        """Count noise scans and readouts."""
        groups, frames = self._scan.kspace.shape[:2]
        return len(self._scan.noise) + int(groups * frames)

    def __iter__(self) -> Iterator[ismrmrd.Acquisition]:
        """Yield the noise scans, then the readouts group by group."""
        groups, frames = self._scan.kspace.shape[:2]
        n_noise = len(self._scan.noise)
        if n_noise:
            yield from _from_block(_noise_block(self._scan))
        for group in range(groups):
            block = _group_block(self._scan, group, n_noise + group * frames, len(self))
            yield from _from_block(block)


def _from_block(block: NDArray[np.void]) -> Iterator[ismrmrd.Acquisition]:
    for row in block:
        head = ismrmrd.AcquisitionHeader.from_buffer_copy(row["head"].tobytes())
        n, coils = head.number_of_samples, head.active_channels
        data = np.array(row["data"], np.float32).view(np.complex64).reshape(coils, n)
        trajectory = np.array(row["traj"], np.float32).reshape(n, head.trajectory_dimensions)
        yield ismrmrd.Acquisition(head, data, trajectory)


def scan_bytes(groups: int, frames: int, coils: int, samples: int) -> int:
    """Return the approximate size of the file of a scan [bytes]."""
    header_bytes: int = acquisition_dtype["head"].itemsize
    return groups * frames * (samples * (8 * coils + 12) + header_bytes)


def ismrmrd_header(scan: RawScan) -> ismrmrd.xsd.ismrmrdHeader:
    """Return the header of a scan: lengths in mm, times in ms, angles in degrees."""
    xsd = ismrmrd.xsd
    groups, frames, coils, samples = scan.kspace.shape
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(**_xyz(scan.geometry.matrix)),
        fieldOfView_mm=xsd.fieldOfViewMm(
            **{k: round(1e3 * v, 6) for k, v in _xyz(scan.geometry.field_of_view).items()}
        ),
    )
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_0=_limit(samples),
        kspace_encoding_step_1=_limit(1),
        kspace_encoding_step_2=_limit(1),
        contrast=_limit(frames),
        segment=_limit(groups),
    )
    sequence = scan.sequence
    return xsd.ismrmrdHeader(
        subjectInformation=xsd.subjectInformationType(
            patientName=f"Simulation^{_printable(scan.subject)}",
            patientID=f"SIM-{_printable(scan.subject)}",
        ),
        studyInformation=xsd.studyInformationType(
            studyID="1",
            studyDescription="Simulated MR fingerprinting",
            bodyPartExamined="HEAD",
        ),
        measurementInformation=xsd.measurementInformationType(
            measurementID="1",
            patientPosition=xsd.patientPositionType.HFS,
            protocolName=_printable(scan.protocol),
            sequenceName="TGAS-SPI-MRF",
        ),
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(
            systemVendor="mri2qmap",
            systemModel="simulator",
            systemFieldStrength_T=FIELD_STRENGTH_T,
            receiverChannels=coils,
            coilLabel=[
                xsd.coilLabelType(coilNumber=i, coilName=f"loop_{i + 1}") for i in range(coils)
            ],
        ),
        experimentalConditions=xsd.experimentalConditionsType(
            H1resonanceFrequency_Hz=round(FIELD_STRENGTH_T * PROTON_HZ_PER_TESLA)
        ),
        encoding=[
            xsd.encodingType(
                encodedSpace=space,
                reconSpace=space,
                encodingLimits=limits,
                trajectory=xsd.trajectoryType.SPIRAL,
            )
        ],
        sequenceParameters=xsd.sequenceParametersType(
            TR=_milliseconds(sequence.repetition_times),
            TE=_milliseconds(sequence.echo_times),
            TI=_milliseconds([sequence.inversion_time]),
            flipAngle_deg=[round(math.degrees(a), 5) for a in sequence.flip_angles],
            sequence_type="FISP-MRF",
        ),
    )


def _printable(name: str) -> str:
    """Return a name, for example of a file, without characters that XML cannot represent."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _limit(count: int) -> ismrmrd.xsd.limitType:
    return ismrmrd.xsd.limitType(minimum=0, maximum=count - 1, center=0)


def _milliseconds(times: SequenceOf[float]) -> list[float]:
    """Convert times [s] to [ms]; a single value if all are equal."""
    values = [round(1e3 * t, 6) for t in times]
    return values[:1] if len(set(values)) == 1 else values


def _xyz(values: SequenceOf[float]) -> dict[str, float]:
    return dict(zip("zyx", values, strict=True))


def _heads(scan: RawScan, count: int, samples: int, first: int) -> NDArray[np.void]:
    """Return acquisition headers with the fields common to all acquisitions."""
    coils = scan.kspace.shape[2]
    heads = np.zeros(count, dtype=acquisition_dtype["head"])
    heads["version"] = 1
    heads["scan_counter"] = first + np.arange(count)
    heads["number_of_samples"] = samples
    heads["available_channels"] = heads["active_channels"] = coils
    for channel in range(coils):
        word, bit = divmod(channel, CHANNELS_PER_WORD)
        heads["channel_mask"][:, word] |= np.uint64(1 << bit)
    longest = 0.9 * min(
        tr - te
        for tr, te in zip(scan.sequence.repetition_times, scan.sequence.echo_times, strict=True)
    )
    dwell = min(DWELL_S, longest / scan.kspace.shape[3])
    heads["sample_time_us"] = 1e6 * dwell
    geometry = scan.geometry
    heads["position"] = 1e3 * np.array(geometry.position)
    for name in ("read_dir", "phase_dir", "slice_dir"):
        heads[name] = getattr(geometry, name)
    heads["acquisition_time_stamp"] = round(START_OF_SCAN_S / TICK_S)
    return heads


def _noise_block(scan: RawScan) -> NDArray[np.void]:
    count, _, samples = scan.noise.shape
    block = np.zeros(count, dtype=acquisition_dtype)
    block["head"] = _heads(scan, count, samples, 0)
    block["head"]["flags"] = _flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    for number in range(count):
        block["data"][number] = _floats(scan.noise[number])
        block["traj"][number] = np.zeros(0, dtype=np.float32)
    return block


def _group_block(scan: RawScan, group: int, first: int, total: int) -> NDArray[np.void]:
    frames, samples = scan.kspace.shape[1], scan.kspace.shape[3]
    block = np.zeros(frames, dtype=acquisition_dtype)
    heads = _heads(scan, frames, samples, first)
    heads["trajectory_dimensions"] = 3
    heads["idx"]["contrast"] = np.arange(frames)
    heads["idx"]["segment"] = group
    sequence = scan.sequence
    train = np.cumsum([0.0, *sequence.repetition_times])
    start = START_OF_SCAN_S + sequence.inversion_time
    start += group * (sequence.inversion_time + train[-1] + RECOVERY_S)
    heads["acquisition_time_stamp"] = np.rint((start + train[:-1]) / TICK_S)
    heads["flags"] = NO_FLAGS
    heads["flags"][0] |= _flag(ismrmrd.ACQ_FIRST_IN_SEGMENT)
    heads["flags"][-1] |= _flag(ismrmrd.ACQ_LAST_IN_SEGMENT)
    if first + frames == total:
        heads["flags"][-1] |= _flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
    block["head"] = heads
    for frame in range(frames):
        block["data"][frame] = _floats(scan.kspace[group, frame])
        block["traj"][frame] = scan.trajectory[group, frame].ravel()
    return block


def _flag(number: int) -> np.uint64:
    """Return the bit of an ISMRMRD flag; flags are numbered from 1."""
    return np.uint64(1 << (number - 1))


def _floats(samples: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return real and imaginary parts, interleaved."""
    return np.ascontiguousarray(samples).view(np.float32).ravel()
