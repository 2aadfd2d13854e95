"""Scans as public converters write them, and as Pulseq sites do, give the maps of standard ones.

Headers and counters are those that the converters document in their code and parameter maps. What
they leave out, trajectories and flip angles, is given beside the scan.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pytest
from helpers.conventions import limit
from helpers.pulseq_files import train_file

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.evaluation.maps import Maps
from mri2qmap.pipeline.acquisition_kinds import is_noise_scan
from mri2qmap.pipeline.scan_header import ScanInfo
from mri2qmap.pipeline.scan_profile_files import load_scan_profile
from mri2qmap.pipeline.standard_scan import described

xsd = ismrmrd.xsd
QUICK = {"combined_matching.atom_step": 0.2}
COUNTERS = ("average", "slice", "contrast", "phase", "repetition", "set", "segment")


@dataclass(frozen=True)
class Written:
    """A scan as a converter writes it, and the file beside it."""

    header: str
    items: list[ismrmrd.Acquisition]
    profile: str


@dataclass(frozen=True)
class Standard:
    """The standard scan: header, parsed, noise scans and imaging acquisitions."""

    header: bytes
    scan: ScanInfo
    noise: list[ismrmrd.Acquisition]
    imaging: list[ismrmrd.Acquisition]

    @property
    def items(self) -> list[ismrmrd.Acquisition]:
        return [*self.noise, *self.imaging]

    @property
    def groups(self) -> int:
        return max(a.idx.segment for a in self.imaging) + 1

    def sequence_toml(self) -> str:
        """What no converter writes, as a physicist copies it from the sequence."""
        parameters = self.scan.header.sequenceParameters
        return (
            f"flip_angles = {list(parameters.flipAngle_deg)}\n"
            f"repetition_times = {list(parameters.TR)}\n"
            f"echo_times = {list(parameters.TE)}\ninversion_time = {parameters.TI[0]}\n"
        )


@pytest.fixture(scope="module")
def standard(noisy_scan) -> Standard:
    scan, items, _, path = noisy_scan
    dataset = ismrmrd.Dataset(str(path), mode="r")
    header = dataset.read_xml_header()
    dataset.close()
    noise = [a for a in items if is_noise_scan(a)]
    return Standard(header, scan, noise, [a for a in items if not is_noise_scan(a)])


def maps_of(header, items, profile=None) -> Maps:
    scan = mri2qmap.Scan(header, items)
    return mri2qmap.reconstruct(
        scan, "svdmrf", "cpu", settings=QUICK, progress=False, scan_profile=profile
    )


@pytest.fixture(scope="module")
def expected(standard) -> Maps:
    return maps_of(standard.header, standard.items)


@pytest.fixture(scope="module")
def expected_without_noise(standard) -> Maps:
    return maps_of(standard.header, standard.imaging)


def header_of(standard: Standard, vendor: str, trajectory: str, **limits) -> xsd.ismrmrdHeader:
    """A header with one value of each parameter, and limits of 0 to 0 unless others are given."""
    document = xsd.CreateFromDocument(standard.header)
    document.acquisitionSystemInformation.systemVendor = vendor
    encoding = document.encoding[0]
    encoding.trajectory = xsd.trajectoryType(trajectory)
    every = dict.fromkeys(COUNTERS, (0, 0)) | limits
    encoding.encodingLimits = xsd.encodingLimitsType(
        **{name: limit(*values) for name, values in every.items()}
    )
    document.sequenceParameters = xsd.sequenceParametersType(
        TR=[12.0], TE=[2.0], TI=[], flipAngle_deg=[10.0]
    )
    return document


def rewritten(acquisition, number, trajectory, **counters) -> ismrmrd.Acquisition:
    """The acquisition with all counters 0 but those given, and with another trajectory."""
    head = acquisition.getHead()
    head.scan_counter = number
    for name in (*COUNTERS, "kspace_encode_step_1", "kspace_encode_step_2"):
        setattr(head.idx, name, counters.get(name, 0))
    head.trajectory_dimensions = trajectory.shape[1]
    return ismrmrd.Acquisition(head, acquisition.data.copy(), trajectory)


def nothing(acquisition) -> np.ndarray:
    return np.zeros((acquisition.number_of_samples, 0), np.float32)


def of_another_kind(acquisition, number, flag, space=0) -> ismrmrd.Acquisition:
    other = rewritten(acquisition, number, nothing(acquisition), repetition=9000, segment=5)
    other.set_flag(flag)
    other.encoding_space_ref = space
    return other


def trajectory_file(folder: Path, imaging: list[ismrmrd.Acquisition], groups: int) -> None:
    every = np.stack([a.traj for a in imaging])
    np.save(folder / "trajectory.npy", every.reshape(groups, -1, *every.shape[1:]))


def as_siemens(standard: Standard, folder: Path) -> Written:
    """ushRepetition and ushPartition count; the protocol has one measurement, and an echo."""
    header = header_of(
        standard,
        "SIEMENS",
        "spiral",
        kspace_encoding_step_1=(0, 47, 24),
        kspace_encoding_step_2=(0, 31, 16),
    )
    maxwell = xsd.userParameterDoubleType(name="MaxwellCoefficient_0", value=0.0)
    header.userParameters = xsd.userParametersType(userParameterDouble=[maxwell])
    items = [of_another_kind(standard.imaging[0], 1, ismrmrd.ACQ_IS_DUMMYSCAN_DATA)]
    items += standard.noise
    for number, a in enumerate(standard.imaging):
        lines = {"kspace_encode_step_1": a.idx.contrast * 7 % 48}
        counters = {"repetition": a.idx.contrast, "kspace_encode_step_2": a.idx.segment}
        items.append(rewritten(a, number + 2, a.traj, **lines, **counters))
        items[-1].idx.user[5], items[-1].idx.user[6] = 24, 16
        if number % 50 == 3:
            reference = of_another_kind(a, 5000 + number, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION, 1)
            items += [reference, of_another_kind(a, 6000 + number, ismrmrd.ACQ_IS_NAVIGATION_DATA)]
    return Written(xsd.ToXML(header), items, 'base = "siemens"\n' + standard.sequence_toml())


def as_ge(standard: Standard, folder: Path) -> Written:
    """Views and slices count; neither noise scans nor trajectories nor dwell times."""
    frames = standard.scan.sequence.n_frames
    header = header_of(
        standard,
        "GE MEDICAL SYSTEMS",
        "cartesian",
        kspace_encoding_step_1=(0, frames - 1, frames // 2),
        kspace_encoding_step_2=(0, 0),
        slice=(0, standard.groups - 1),
        repetition=(0, 1),
        contrast=(0, 1),
    )
    header.sequenceParameters.TE = [2.0, 0.0]
    header.sequenceParameters.TI = [0.0]
    trajectory_file(folder, standard.imaging, standard.groups)
    items = []
    for number, a in enumerate(standard.imaging):
        counters = {"kspace_encode_step_1": a.idx.contrast, "slice": a.idx.segment}
        items.append(rewritten(a, number, nothing(a), **counters))
        items[-1].sample_time_us = 0
        if a.idx.contrast % 2:
            items[-1].data[:] *= -1
    profile = 'base = "ge"\ntrajectory_file = "trajectory.npy"\n' + standard.sequence_toml()
    return Written(xsd.ToXML(header), items, profile)


def as_philips(standard: Standard, folder: Path) -> Written:
    """Dynamics and e2 count; neither positions nor a resonance frequency."""
    frames = standard.scan.sequence.n_frames
    header = header_of(
        standard,
        "PHILIPS",
        "cartesian",
        kspace_encoding_step_1=(0, 23, 11),
        kspace_encoding_step_2=(0, standard.groups - 1),
        repetition=(0, frames - 1),
    )
    header.experimentalConditions.H1resonanceFrequency_Hz = 0
    trajectory_file(folder, standard.imaging, standard.groups)
    items = [*standard.noise]
    for number, a in enumerate(standard.imaging):
        counters = {"repetition": a.idx.contrast, "kspace_encode_step_2": a.idx.segment}
        step = {"kspace_encode_step_1": a.idx.contrast % 24}
        items.append(rewritten(a, number + 1, nothing(a), **counters, **step))
        for place in ("position", "read_dir", "phase_dir", "slice_dir"):
            getattr(items[-1], place)[:] = (0.0, 0.0, 0.0)
    profile = 'base = "philips"\ntrajectory_file = "trajectory.npy"\n' + standard.sequence_toml()
    return Written(xsd.ToXML(header), items, profile)


def as_pulseq(standard: Standard, folder: Path) -> Written:
    """No labels; trajectories of the sequence file in 1/m."""
    size = np.array(standard.scan.voxel_size[::-1])
    header = header_of(standard, "", "other")
    items = [*standard.noise]
    for number, a in enumerate(standard.imaging):
        per_metre = (a.traj.astype(np.float64) / size).astype(np.float32)
        items.append(rewritten(a, number + 1, per_metre))
    return Written(xsd.ToXML(header), items, 'base = "pulseq"\n' + standard.sequence_toml())


CONVERTERS: dict[str, tuple[Callable[[Standard, Path], Written], bool, float]] = {
    "siemens": (as_siemens, True, 0),
    "ge": (as_ge, False, 0),
    "philips": (as_philips, True, 0),
    "pulseq": (as_pulseq, True, 5e-3),
}
"""How a scan is written, whether noise scans are, and the part of voxels with another match."""


def same_maps(found: Maps, other: Maps, differing: float) -> None:
    for name in ("t1", "t2", "proton_density"):
        own, right = getattr(found, name), getattr(other, name)
        assert right.any()
        if not differing:
            np.testing.assert_array_equal(own, right)
        else:
            close = np.isclose(own, right, rtol=1e-4, atol=1e-4 * np.abs(right).max())
            assert close.mean() >= 1 - differing, name


@pytest.mark.parametrize("name", CONVERTERS)
def test_maps_are_those_of_the_standard_scan(name, standard, request, tmp_path):
    write, has_noise, differing = CONVERTERS[name]
    written = write(standard, tmp_path)
    profile = tmp_path / "site.toml"
    profile.write_text(written.profile)
    found = maps_of(written.header, written.items, profile)
    other = request.getfixturevalue("expected" if has_noise else "expected_without_noise")
    same_maps(found, other, differing)
    assert found.record["scan_profile"]["name"] == "site"
    assert len(found.record["scan_profile"]["settings"]["flip_angles"]) == 120


def test_sequence_from_a_pulseq_file(standard, expected, tmp_path):
    """The header has one flip angle; the file beside the profile has one for each frame."""
    written = as_siemens(standard, tmp_path)
    file = tmp_path / "train.seq"
    file.write_text(train_file(standard.scan.sequence, "1.4.1", standard.groups))
    profile = tmp_path / "site.toml"
    profile.write_text('base = "siemens"\nsequence_file = "train.seq"\n')
    found = maps_of(written.header, written.items, profile)
    same_maps(found, expected, 1e-3)
    assert found.record["scan_profile"]["settings"]["sequence_file"] == str(file)
    assert "flip angles and times from a Pulseq file" in described(load_scan_profile(profile))
    scan = mri2qmap.Scan(written.header, written.items)
    result = mri2qmap.validate(scan, "svdmrf", "cpu", time=False, scan_profile=profile)
    assert result.fits, [f.message for f in result.findings]
    assert result.description.sequence_origin == f"the Pulseq file {file}"
    assert result.description.frames == 120
    file.write_text(train_file(standard.scan.sequence).replace("[ADC]", "[ADCS]"))
    result = mri2qmap.validate(scan, "svdmrf", "cpu", time=False, scan_profile=profile)
    assert result.codes == ("scan-profile-unfit",)
    assert f"sequence_file: {file}: line" in result.findings[0].message
    with pytest.raises(mri2qmap.Mri2QmapError, match="'\\[ADCS\\]' is no section"):
        maps_of(written.header, written.items, profile)


@pytest.mark.parametrize("name", CONVERTERS)
def test_without_the_profile_they_are_refused(name, standard, tmp_path):
    written = CONVERTERS[name][0](standard, tmp_path)
    with pytest.raises(mri2qmap.Mri2QmapError, match="--scan-profile"):
        maps_of(written.header, written.items)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("siemens", ("base = 'siemens'; flip_angles = ...", "may be philips as well")),
        ("ge", ("base = 'ge'; flip_angles = ...; trajectory_file = ...",)),
        ("philips", ("base = 'philips'; flip_angles = ...; trajectory_file = ...",)),
        ("pulseq", ("trajectory_units = '1/m'",)),
    ],
)
def test_validate_names_what_to_try(name, keys, standard, tmp_path):
    written = CONVERTERS[name][0](standard, tmp_path)
    scan = mri2qmap.Scan(written.header, written.items)
    (hint,) = [
        f
        for f in mri2qmap.validate(scan, "svdmrf", "cpu", time=False).findings
        if f.code == "scan-profile"
    ]
    for key in keys:
        assert key in hint.advice
    profile = tmp_path / "site.toml"
    profile.write_text(written.profile)
    result = mri2qmap.validate(scan, "svdmrf", "cpu", time=False, scan_profile=profile)
    assert result.fits, [f.message for f in result.findings]
    assert "scan-profile" not in result.codes
    assert result.description.groups == standard.groups


def test_stack_of_spirals_of_siemens(standard):
    """siemens_to_ismrmrd --attachTrajectory: two columns from -0.5 to 0.5, and partitions.

    The samples are of other places in k-space than here: the maps show nothing, but are equal.
    """
    partitions, center = 16, 8
    stack, items = [], []
    for number, a in enumerate(standard.imaging):
        partition = (number * 5) % partitions
        trajectory = a.traj.copy()
        scale = 0.5 / np.abs(trajectory[:, :2]).max()
        trajectory[:, :2] *= np.float32(scale)
        trajectory[:, 2] = (partition - center) / partitions
        head = a.getHead()
        head.idx.kspace_encode_step_2 = 0
        stack.append(ismrmrd.Acquisition(head, a.data, trajectory))
        counters = {"repetition": a.idx.contrast, "segment": a.idx.segment}
        plane = np.ascontiguousarray(trajectory[:, :2])
        steps = {"kspace_encode_step_1": number % 48, "kspace_encode_step_2": partition}
        items.append(rewritten(a, number + 2, plane, **counters, **steps))
    header = header_of(
        standard,
        "SIEMENS",
        "spiral",
        kspace_encoding_step_1=(0, 47, 24),
        kspace_encoding_step_2=(0, partitions - 1, center),
    )
    parameters = standard.scan.header.sequenceParameters
    base = mri2qmap.pipeline.load_scan_profile("siemens_spiral")
    profile = mri2qmap.ScanProfile(
        **{
            **vars(base),
            "group_counter": "segment",
            "flip_angles": tuple(parameters.flipAngle_deg),
            "repetition_times": tuple(parameters.TR),
            "echo_times": tuple(parameters.TE),
            "inversion_time": parameters.TI[0],
        }
    )
    found = maps_of(xsd.ToXML(header), [*standard.noise, *items], profile)
    same_maps(found, maps_of(standard.header, [*standard.noise, *stack]), 0)


def test_from_the_command_line(standard, expected, tmp_path):
    """The scan is one of two in its file; the profile says which."""
    written = as_siemens(standard, tmp_path)
    scan = tmp_path / "meas.h5"
    for group, items in (("noise", standard.noise), ("meas_2", written.items)):
        dataset = ismrmrd.Dataset(str(scan), group)
        dataset.write_xml_header(written.header)
        for item in items:
            dataset.append_acquisition(item)
        dataset.close()
    profile = tmp_path / "site.toml"
    profile.write_text(f'{written.profile}dataset = "meas_2"\n')
    changes = ("--set", "combined_matching.atom_step=0.2", "--set", "parametric_maps.dicom=none")
    output = tmp_path / "maps"
    command = ["replay", str(scan), "-p", "svdmrf", "-o", str(output), "--no-report", *changes]
    assert main([*command, "--scan-profile", str(profile)]) == 0
    t1 = nibabel.load(output / "nifti/T1map.nii.gz").get_fdata()
    np.testing.assert_array_equal(np.sort(t1[t1 > 0]), np.sort(expected.t1[expected.t1 > 0]))
    stored = ismrmrd.Dataset(str(output / "mrd.h5"), mode="r")
    assert b"<value>site</value>" in stored.read_xml_header()
    stored.close()
    wrong = [*command[:5], str(tmp_path / "other"), *command[6:], "--group", "noise"]
    assert main([*wrong, "--scan-profile", str(profile)]) != 0
    assert main([*wrong, "--scan-profile", "nosuch"]) != 0
