"""A good scan has no finding; each way of making it wrong has its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
from helpers.scans import header, remove, rename_group, truncate, write_scan

import mri2qmap
from mri2qmap.cli.main import main
from mri2qmap.pipeline.findings import Level

FRAMES = 8
GROUPS = 2
COILS = 2
SAMPLES = 40
NOISE = 2
PIPELINE = "svdmrf"

ANGLES = " ".join(str(10 + 5 * frame) for frame in range(FRAMES))
LIMITS = f"<segment><minimum>0</minimum><maximum>{GROUPS - 1}</maximum><center>0</center></segment>"


def xml(limits: str = LIMITS, **changes: Any) -> str:
    """The header of the good scan, with changed arguments of `helpers.scans.header`."""
    text = header(**({"angles": ANGLES, "limit": FRAMES - 1} | changes))
    return text.replace("</encodingLimits>", f"{limits}</encodingLimits>")


def encodings(text: str) -> tuple[str, str, str]:
    """Text before, in and after the encoding."""
    start, end = text.index("<encoding>"), text.index("</encoding>") + len("</encoding>")
    return text[:start], text[start:end], text[end:]


def acquisition(seed: Sequence[int], trajectory: np.ndarray | None = None) -> ismrmrd.Acquisition:
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((COILS, SAMPLES)) + 1j * rng.standard_normal((COILS, SAMPLES))
    made = ismrmrd.Acquisition.from_array(data.astype(np.complex64), trajectory)
    made.sample_time_us = 4.0
    made.read_dir[:], made.phase_dir[:], made.slice_dir[:] = np.eye(3)
    return made


def good() -> list[ismrmrd.Acquisition]:
    """Noise scans, then straight lines through the centre of k-space in all directions."""
    scan = [acquisition([0, number]) for number in range(NOISE)]
    for noise in scan:
        noise.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    rng = np.random.default_rng(1)
    for group in range(GROUPS):
        for frame in range(FRAMES):
            direction = rng.standard_normal(3)
            direction /= np.abs(direction).max()
            line = np.linspace(0, 0.5, SAMPLES)[:, None] * direction
            readout = acquisition([1, group, frame], np.ascontiguousarray(line, np.float32))
            readout.idx.contrast, readout.idx.segment = frame, group
            scan.append(readout)
    return scan


def remade(
    source: ismrmrd.Acquisition, data: np.ndarray | None = None, line: np.ndarray | None = None
) -> ismrmrd.Acquisition:
    """A copy with other samples or another trajectory."""
    data = source.data if data is None else data
    line = source.traj if line is None else line
    head = source.getHead()
    head.active_channels, head.number_of_samples = data.shape
    head.trajectory_dimensions = line.shape[1]
    return ismrmrd.Acquisition(
        head, np.ascontiguousarray(data), np.ascontiguousarray(line, np.float32)
    )


def with_lines(change: Callable[[np.ndarray], np.ndarray]) -> list[ismrmrd.Acquisition]:
    """The scan with all trajectories changed."""
    return [*good()[:NOISE], *(remade(a, line=change(a.traj)) for a in good()[NOISE:])]


def with_one(change: Callable[[ismrmrd.Acquisition], Any], number: int = -2) -> list[Any]:
    """The scan with one acquisition changed in place, or replaced by what is returned."""
    scan = good()
    scan[number] = change(scan[number]) or scan[number]
    return scan


def setting(name: str, value: Any) -> Callable[[ismrmrd.Acquisition], None]:
    """Set a value of the header of an acquisition, or of its counters."""

    def change(acquisition: ismrmrd.Acquisition) -> None:
        owner = acquisition.idx if hasattr(acquisition.idx, name) else acquisition
        if isinstance(value, tuple):
            getattr(owner, name)[:] = value
        else:
            setattr(owner, name, value)

    return change


def with_all(name: str, value: Any) -> list[ismrmrd.Acquisition]:
    scan = good()
    for each in scan:
        setting(name, value)(each)
    return scan


def zeros() -> list[ismrmrd.Acquisition]:
    return [*good()[:NOISE], *(remade(a, data=np.zeros_like(a.data)) for a in good()[NOISE:])]


def scaled(imaging: float = 1, noise: float = 1) -> list[ismrmrd.Acquisition]:
    return [
        remade(a, data=a.data * np.float32(noise if number < NOISE else imaging))
        for number, a in enumerate(good())
    ]


def large_sample(acquisition: ismrmrd.Acquisition) -> None:
    acquisition.data[1, 5] = 1e20


def nan_sample(acquisition: ismrmrd.Acquisition) -> None:
    acquisition.data[0, 3] = np.nan


def same_coil_twice() -> list[ismrmrd.Acquisition]:
    return [remade(a, data=a.data[[0, 0]]) for a in good()]


def with_noise_of(coils: int) -> list[ismrmrd.Acquisition]:
    return [*(remade(a, data=a.data[:coils]) for a in good()[:NOISE]), *good()[NOISE:]]


def with_loud_noise() -> list[ismrmrd.Acquisition]:
    """Noise scans of which half of the samples are signal."""
    loud = np.where(np.arange(SAMPLES) % 2, 100, 1).astype(np.complex64)
    return [remade(a, data=a.data * loud) for a in good()[:NOISE]]


@dataclass(frozen=True)
class Wrong:
    """A scan that is wrong in one way, and the code of the finding.

    Attributes
    ----------
    codes
        Codes of all findings, in the order of their levels.
    words
        What the message of the first contains.
    """

    codes: str
    words: str
    header: str = field(default_factory=xml)
    data: Callable[[], list[ismrmrd.Acquisition]] = good
    change_file: Callable[[Path], Any] | None = None
    pipeline: str = PIPELINE
    settings: dict[str, Any] = field(default_factory=dict)
    memory: int | None = None


def limited(name: str, last: int) -> str:
    return f"<{name}><minimum>0</minimum><maximum>{last}</maximum><center>0</center></{name}>"


def with_recon_only(text: str, old: str, new: str) -> str:
    """Change what is in encodedSpace, not in reconSpace."""
    before, end, after = text.partition("</encodedSpace>")
    return before.replace(old, new) + end + after


BEFORE, ENCODING, AFTER = encodings(xml())
SYSTEM = (
    "<acquisitionSystemInformation><systemFieldStrength_T>30000</systemFieldStrength_T>"
    "</acquisitionSystemInformation>"
)

WRONG = {
    # the file
    "no file": Wrong("file-missing", "does not exist", change_file=Path.unlink),
    "an empty file": Wrong("file-empty", "is empty", change_file=lambda p: p.write_bytes(b"")),
    "a text file": Wrong(
        "not-ismrmrd", "neither", change_file=lambda p: p.write_text("scan\n" * 9)
    ),
    "a truncated file": Wrong("file-truncated", "copy it again", change_file=truncate),
    "no header in the file": Wrong("header-missing", "dataset/xml", change_file=remove("xml")),
    "no acquisitions in the file": Wrong(
        "data-missing", "dataset/data", change_file=remove("data")
    ),
    "no group of the scan": Wrong(
        "no-scan",
        "'dataset' is missing",
        change_file=lambda path: (rename_group(path), remove_all(path)),
    ),
    "two scans in the file": Wrong(
        "several-scans", "2 groups", change_file=lambda path: copy_group(path)
    ),
    # the header
    "no XML": Wrong("header-unreadable", "not well-formed", "<ismrmrdHeader>"),
    "no encoding": Wrong("encoding-missing", "encoding is missing", BEFORE + AFTER),
    "several encodings": Wrong(
        "several-encodings", "2 encodings", BEFORE + ENCODING + ENCODING + AFTER
    ),
    "a field of view of zero": Wrong("field-of-view", "0.0 x", xml(fov="0 16 16")),
    "a field of view in metres": Wrong(
        "field-of-view-range", "is it in metres", xml(fov="0.2 0.2 0.2")
    ),
    "a 2D matrix": Wrong("matrix-not-3d", "8 x 8 x 1", xml(matrix="8 8 1")),
    "an odd matrix": Wrong("matrix-odd", "even numbers", xml(matrix="8 8 9", fov="16 16 18")),
    "another encoded matrix": Wrong(
        "matrix-mismatch", "16 x 8 x 8", with_recon_only(xml(), "<x>8</x>", "<x>16</x>")
    ),
    "another encoded field of view": Wrong(
        "field-of-view-mismatch", "32 x 16 x 16", with_recon_only(xml(), "<x>16</x>", "<x>32</x>")
    ),
    "a Cartesian scan": Wrong(
        "trajectory-type", "is cartesian", xml().replace(">spiral<", ">cartesian<")
    ),
    "no sequence": Wrong(
        "sequence-missing",
        "sequenceParameters is missing",
        xml().replace("sequenceParameters", "userParameters"),
    ),
    "no flip angles": Wrong("flip-angles-missing", "flipAngle_deg is missing", xml(angles="")),
    "flip angles in radians": Wrong(
        "flip-angle-range", "radians", xml(angles=" ".join(["0.3"] * FRAMES))
    ),
    "a TR of zero": Wrong("tr-range", "TR is 0 ms", xml(tr="0")),
    "no TR": Wrong("tr-missing", "TR is missing", xml(tr="")),
    "too few TR": Wrong("frame-count", "TR: 3", xml(tr="12 12 12")),
    "too many TE": Wrong("frame-count", "TE: 9", xml(te=" ".join(["1"] * 9))),
    "a TE beyond TR": Wrong("te-not-within-tr", "TE must be shorter", xml(te="13")),
    "two TI": Wrong("ti-several", "2 different values", xml(ti="20 30")),
    "a field strength in gauss": Wrong(
        "field-strength", "systemFieldStrength_T", xml(extra=SYSTEM)
    ),
    "a resonance in MHz": Wrong(
        "field-strength", "H1resonanceFrequency_Hz", xml().replace("127000000", "127")
    ),
    "groups that are not announced": Wrong("groups-not-announced", "segment", xml(limits="")),
    # the acquisitions
    "no imaging": Wrong("no-imaging", "2 noise scans", data=lambda: good()[:NOISE]),
    "a frame out of range": Wrong(
        "frame-out-of-range incomplete",
        "belongs to frame 40",
        data=lambda: with_one(setting("contrast", 40)),
    ),
    "a group out of range": Wrong(
        "group-out-of-range incomplete",
        "readout group 7",
        data=lambda: with_one(setting("segment", 7)),
    ),
    "missing frames": Wrong(
        "incomplete",
        "1 of the 8 frames",
        data=lambda: [a for a in good() if a.idx.contrast != 5],
    ),
    "missing groups": Wrong(
        "incomplete", "1 of 2 readout groups", data=lambda: [a for a in good() if not a.idx.segment]
    ),
    "a scan that was stopped": Wrong("incomplete", "frames 5 to 7", data=lambda: good()[:-3]),
    "a duplicate readout": Wrong(
        "duplicate-readout", "already received", data=lambda: [*good(), good()[-1]]
    ),
    "another set": Wrong("set-changes", "set 1", data=lambda: with_one(setting("set", 1))),
    "another position": Wrong(
        "position-changes", "position", data=lambda: with_one(setting("position", (9.0, 0, 0)))
    ),
    "coils that change": Wrong(
        "coils-change",
        "1 coils",
        data=lambda: with_one(lambda a: remade(a, data=a.data[:1])),
    ),
    "samples that change": Wrong(
        "samples-change",
        "1 imaging acquisitions have 20",
        data=lambda: with_one(lambda a: remade(a, data=a.data[:, :20], line=a.traj[:20])),
    ),
    "a number that is not finite": Wrong(
        "data-not-finite", "sample 3 of coil 0", data=lambda: with_one(nan_sample)
    ),
    "a number that is too large": Wrong(
        "data-too-large", "sample 5 of coil 1", data=lambda: with_one(large_sample)
    ),
    "imaging that is too large": Wrong(
        "data-too-large", "divide all samples", data=lambda: scaled(imaging=1e30)
    ),
    "imaging and noise that are too large": Wrong(
        "data-too-large", "divide all samples", data=lambda: scaled(1e36, 1e36)
    ),
    "imaging and noise that are nearly zero": Wrong(
        "no-signal noise-zero", "multiply all samples", data=lambda: scaled(1e-30, 1e-30)
    ),
    "imaging of another scale than noise": Wrong(
        "noise-scale", "0.001 to 1e+12 times", data=lambda: scaled(imaging=1e-6)
    ),
    "noise of another scale than imaging": Wrong(
        "noise-scale", "0.001 to 1e+12 times", data=lambda: scaled(noise=1e-14)
    ),
    "noise that is denormal": Wrong(
        "noise-zero", "noise of at least 1e-20", data=lambda: scaled(noise=1e-40)
    ),
    "noise that is zero": Wrong(
        "noise-zero", "correct the conversion of the noise", data=lambda: scaled(noise=0)
    ),
    "zeros": Wrong("no-signal", "16 imaging acquisitions are zero", data=zeros),
    "a dwell time in ns": Wrong(
        "dwell-time-range", "nanoseconds", data=lambda: with_all("sample_time_us", 40000.0)
    ),
    "a 2D trajectory": Wrong(
        "trajectory-dimensions scan-profile", "2D", data=lambda: with_lines(lambda k: k[:, :2])
    ),
    "no trajectory": Wrong(
        "trajectory-dimensions scan-profile",
        "no trajectory",
        data=lambda: with_lines(lambda k: k[:, :0]),
    ),
    "a trajectory in 1/m": Wrong(
        "trajectory-unit scan-profile",
        "may be in 1/m",
        data=lambda: with_lines(lambda k: k / 0.002),
    ),
    "a trajectory in rad": Wrong(
        "trajectory-unit scan-profile",
        "rad/voxel",
        data=lambda: with_lines(lambda k: 2 * np.pi * k),
    ),
    "a trajectory that is too small": Wrong(
        "trajectory-small", "reach only", data=lambda: with_lines(lambda k: 0.1 * k)
    ),
    "a trajectory in a plane": Wrong(
        "trajectory-flat", "along kz", data=lambda: with_lines(lambda k: k * [1, 1, 0])
    ),
    "a trajectory that is not finite": Wrong(
        "trajectory-not-finite",
        "sample 0",
        data=lambda: with_one(lambda a: remade(a, line=a.traj * np.nan)),
    ),
    "directions that are not orthonormal": Wrong(
        "orientation-not-orthonormal", "orthonormal", data=lambda: with_all("read_dir", (0, 1, 0))
    ),
    "a position in micrometres": Wrong(
        "position-range", "position x is 30000", data=lambda: with_all("position", (3e4, 0, 0))
    ),
    "no noise scans": Wrong("noise-missing", "no noise scans", data=lambda: good()[NOISE:]),
    "noise scans at the end": Wrong(
        "noise-after-imaging noise-late",
        "after the coil calibration",
        data=lambda: [*good()[NOISE:], *good()[:NOISE]],
    ),
    "more noise scans at the end, with signal": Wrong(
        "noise-late",
        "came after the start of imaging",
        data=lambda: [*good(), *with_loud_noise()],
    ),
    "noise scans of one coil": Wrong("noise-coils", "1 coils", data=lambda: with_noise_of(1)),
    "noise scans with signal": Wrong(
        "noise-interference",
        "too large for Gaussian noise",
        data=lambda: [*with_loud_noise(), *good()[NOISE:]],
    ),
    "a coil that is there twice": Wrong("noise-singular", "duplicated", data=same_coil_twice),
    # the pipeline
    "a pipeline for one coil": Wrong(
        "one-coil-pipeline", "2 coils", pipeline="mrf_admm_single_coil"
    ),
    "an unknown pipeline": Wrong("pipeline", "no such file", pipeline="mri3qmap"),
    "an unknown setting": Wrong(
        "setting", "did you mean", settings={"coil_sensitivity.virtual_coil": 1}
    ),
    "a map of B1 that is missing": Wrong(
        "b1-map",
        "does not exist",
        settings={"combined_matching.b1_map": "nowhere.nii.gz"},
    ),
    "a network that is missing": Wrong(
        "network",
        "no such file",
        pipeline="mri2qmap",
        settings={"pnp_admm.denoiser": "nowhere.safetensors"},
    ),
    "a network for another sequence": Wrong("network", "another sequence", pipeline="arnet"),
    "more coefficients than frames": Wrong(
        "too-few-frames", "only 8 frames", settings={"subspace_compression.coefficients": 9}
    ),
    "too little memory": Wrong("memory", "GiB", memory=2**20),
}


def remove_all(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["something"]


def copy_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.copy("dataset", "again")


def validated(path: Path, wrong: Wrong) -> mri2qmap.Validation:
    write_scan(path, wrong.header, wrong.data())
    if wrong.change_file is not None:
        wrong.change_file(path)
    return mri2qmap.validate(
        path, wrong.pipeline, settings=wrong.settings, memory=wrong.memory, time=False
    )


def test_a_good_scan_has_no_finding(tmp_path):
    result = validated(tmp_path / "scan.h5", Wrong("", ""))
    assert result.findings == ()
    assert result.fits


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name, tmp_path):
    wrong = WRONG[name]
    result = validated(tmp_path / "scan.h5", wrong)
    assert list(result.codes) == wrong.codes.split(), [f.message for f in result.findings]
    first = result.findings[0]
    assert wrong.words in first.message
    assert first.what
    plain = first.code in ("b1-map", "network", "pipeline", "setting")
    assert first.advice or plain
    if plain:
        assert first.where
        assert not first.what.startswith(first.where)
        assert "; " not in first.what
    assert result.fits == all(f.level is not Level.ERROR for f in result.findings)


def test_a_scan_that_is_wrong_in_many_ways_has_all_findings(tmp_path):
    scan = with_lines(lambda k: k / 0.002)
    nan_sample(scan[5])
    scan[-1].idx.contrast = 40
    wrong = Wrong(
        "",
        "",
        xml(fov="0 16 16", tr="0", te="300", ti="20 30"),
        lambda: scan,
        pipeline="mrf_admm_single_coil",
        settings={"pnp_admm.iteration": 3, "pnp_admm.coupling": "much", "toeplitz_cg.seed": 1},
    )
    result = validated(tmp_path / "scan.h5", wrong)
    errors = [f for f in result.findings if f.level is Level.ERROR]
    assert [f.code for f in errors] == [
        *("setting", "setting", "field-of-view", "ti-several", "tr-range", "te-range"),
        *("trajectory-unit", "data-not-finite", "frame-out-of-range", "incomplete"),
    ]
    assert next(f for f in errors if f.code == "trajectory-unit").count == FRAMES * GROUPS
    assert "toeplitz_cg.seed" in {f"{s.gadget}.{s.name}" for s in result.settings if s.changed}


REFUSED = (
    *("a text file", "a TR of zero", "a field of view of zero", "a frame out of range"),
    *("missing groups", "a trajectory in 1/m", "zeros", "noise scans at the end"),
    *("directions that are not orthonormal", "an odd matrix", "a map of B1 that is missing"),
    *("a network that is missing", "an unknown setting", "too little memory"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_replay_refuses_with_the_same_words(name, tmp_path, capsys):
    wrong = WRONG[name]
    path = tmp_path / "scan.h5"
    result = validated(path, wrong)
    options = [f"--set={name}={value}" for name, value in wrong.settings.items()]
    if wrong.memory is not None:
        options.append(f"--memory={wrong.memory / 2**30}")
    output = tmp_path / "maps"
    command = ["replay", str(path), "-p", wrong.pipeline, "-o", str(output), *options]
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert any(finding.what in error for finding in result.findings)
    assert not output.exists()
