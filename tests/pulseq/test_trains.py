"""Flip angles and times of Pulseq files."""

from pathlib import Path

import numpy as np
import pytest
from helpers.pulseq_files import VERSIONS, train_file

from mri2qmap.mrsignal.sequence import Sequence
from mri2qmap.pulseq import read_train

DATA = Path(__file__).parent / "data"
MOST_FRAMES = 100
SEQUENCE = Sequence(
    flip_angles=tuple(np.deg2rad([10.0, 35.5, 60.0, 35.5, 0.0])),
    repetition_times=(12e-3, 10.5e-3, 14.03e-3, 9e-3, 9e-3),
    echo_times=(0.7e-3, 1.2e-3, 0.7e-3, 2.5e-3, 0.7e-3),
    inversion_time=20.5e-3,
)


def read(folder: Path, text: str):
    path = folder / "train.seq"
    path.write_text(text)
    return read_train(str(path), MOST_FRAMES)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version(version, tmp_path):
    train = read(tmp_path, train_file(SEQUENCE, version, groups=3))
    np.testing.assert_allclose(train.sequence.numbers(), SEQUENCE.numbers(), rtol=1e-9, atol=1e-12)
    assert (train.version, train.groups) == (version, 3)


def test_shape_that_is_longer_compressed(tmp_path):
    """Before version 1.4, shapes are compressed even if that makes them longer."""
    text = train_file(SEQUENCE, "1.3.1")
    stored = [
        "0.5",
        "0.5",
        "0",
        *["-0.25", "-0.25", "0", "0.25", "0.25", "0"] * 49,
        "-0.25",
        "-0.25",
    ]
    flat = "num_samples 200\n1\n0\n0\n197\n"
    assert text.count(flat) == 1
    text = text.replace(flat, "\n".join(["num_samples 200", *stored, "0", ""]))
    angles = read(tmp_path, text).sequence.flip_angles
    np.testing.assert_allclose(angles, 0.74875 * np.array(SEQUENCE.flip_angles), rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "te", "ti"),
    [
        ("spiral_v1_5", 0.665, 20.0),
        ("spiral_v1_4", 0.665, 20.0),
        ("adiabatic_v1_5", 1.93, 19.995),
    ],
)
def test_files_of_another_program(name, te, ti):
    """What its script asked for, see data/README.md; files have six digits."""
    train = read_train(str(DATA / f"{name}.seq"), MOST_FRAMES)
    sequence = train.sequence
    degrees = np.rad2deg(sequence.flip_angles)
    np.testing.assert_allclose(degrees, [12.5, 31, 48.25, 60, 41.5, 15], rtol=5e-6)
    times = [11, 12.5, 10.2, 13, 11.7, 11.7]  # the last is that of the frame before
    np.testing.assert_allclose(1e3 * np.array(sequence.repetition_times), times, rtol=1e-9)
    np.testing.assert_allclose(1e3 * np.array(sequence.echo_times), te, atol=1e-6)
    assert 1e3 * sequence.inversion_time == pytest.approx(ti, abs=1e-6)
    assert train.groups == 2


def test_the_signature_is_that_of_the_content(tmp_path):
    text = (DATA / "spiral_v1_5.seq").read_text()
    assert "Type md5" in text
    unsigned = text[: text.index("\n[SIGNATURE]")]
    assert read(tmp_path, unsigned) == read(tmp_path, text)


def test_phase_that_grows_in_equal_steps(tmp_path):
    """It is that of another frequency, if the receiver has it as well."""
    turned = train_file(SEQUENCE, phase=2.5 + 2 * np.pi * np.arange(5))
    assert read(tmp_path, turned).sequence.n_frames == 5


def test_rotated_gradients(tmp_path):
    """Each readout is turned with its prephaser, about z by 90 degrees."""
    text = train_file(SEQUENCE)
    lines = text.split("\n")
    for number, line in enumerate(lines):
        words = line.split()
        if line.endswith((" 0 1 0 0 0 0", " 0 2 0 0 1 0")):
            lines[number] = " ".join([*words[:7], "1"])
    half = repr(float(np.sqrt(0.5)))
    extension = f"[EXTENSIONS]\n1 7 1 0\n\nextension ROTATIONS 7\n1 {half} 0 0 {half}\n\n[SHAPES]"
    turned = read(tmp_path, "\n".join(lines).replace("[SHAPES]", extension))
    assert "extension ROTATIONS" in (tmp_path / "train.seq").read_text()
    np.testing.assert_allclose(turned.sequence.numbers(), SEQUENCE.numbers(), atol=1e-9)


def test_only_the_readout_is_rotated(tmp_path):
    """Then its prephaser points elsewhere, and its first sample is nearest to the centre."""
    text = train_file(SEQUENCE)
    lines = [
        " ".join([*line.split()[:7], "1"]) if line.endswith(" 0 2 0 0 1 0") else line
        for line in text.split("\n")
    ]
    extension = "[EXTENSIONS]\n1 7 1 0\n\nextension ROTATIONS 7\n1 0 0 0 1\n\n[SHAPES]"
    turned = read(tmp_path, "\n".join(lines).replace("[SHAPES]", extension)).sequence
    early = (17 - 1) / 2 * 40e-6
    np.testing.assert_allclose(np.array(SEQUENCE.echo_times) - turned.echo_times, early, atol=1e-9)


def test_pulses_with_times_and_gradients_with_corners(tmp_path):
    """A pulse of two samples, 200 us apart, and a trapezoid as a gradient with four corners."""
    text = train_file(SEQUENCE)
    corners = "[GRADIENTS]\n2 10000 0 0 5 6 0\n\n[TRAP]"
    text = text.replace("[TRAP]", corners).replace("2 10000 10 680 10 0\n", "")
    text = text.replace(" 1 2 0 100.0 0 ", " 7 7 8 100.0 0 ")
    shapes = (
        "shape_id 5\nnum_samples 4\n0\n1\n1\n0\n\nshape_id 6\nnum_samples 4\n0\n1\n69\n70\n\n"
        "shape_id 7\nnum_samples 2\n1\n1\n\nshape_id 8\nnum_samples 2\n0\n200\n\n"
    )
    text = text.replace("[SHAPES]\n\n", f"[SHAPES]\n\n{shapes}")
    found = read(tmp_path, text)
    np.testing.assert_allclose(found.sequence.numbers(), SEQUENCE.numbers(), atol=1e-9)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("extension TRIGGERS 7\n1 1 3 0 100", "an output trigger"),
        ("extension LABELSET 7\n1 5 LIN", "a label"),
        ("extension SITE 7\n1 a b c", "an unknown extension that is not required"),
    ],
)
def test_extensions_that_do_not_act_on_the_train(line, what, tmp_path):
    text = train_file(SEQUENCE)
    block = next(b for b in text.split("\n") if b.endswith(" 0 2 0 0 1 0"))
    extended = text.replace(block, block[:-1] + "1").replace(
        "[SHAPES]", f"[EXTENSIONS]\n1 7 1 0\n\n{line}\n\n[SHAPES]"
    )
    found = read(tmp_path, extended).sequence
    np.testing.assert_allclose(found.numbers(), SEQUENCE.numbers(), atol=1e-9), what


def test_other_line_ends_and_letters(tmp_path):
    """Windows line ends, and a name with letters beyond ASCII."""
    text = train_file(SEQUENCE).replace("Name train", "Name Prüfling")
    path = tmp_path / "train.seq"
    path.write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    found = read_train(str(path), MOST_FRAMES).sequence
    np.testing.assert_allclose(found.numbers(), SEQUENCE.numbers(), atol=1e-9)
