"""Pulseq files that are damaged, or play what the signal model does not describe."""

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.pulseq_files import VERSIONS, train_file
from pulseq.test_trains import DATA, MOST_FRAMES, SEQUENCE, read

from mri2qmap.errors import Mri2QmapError
from mri2qmap.pulseq import read_train
from mri2qmap.pulseq.file import LARGEST_FILE

TEXT = train_file(SEQUENCE, "1.5.1", groups=2)


def replaced(old: str, new: str, count: int = 1, text: str = TEXT) -> str:
    assert old in text
    return text.replace(old, new, count)


def changed_block(kind: str, change, which: int = 0, text: str = TEXT) -> str:
    """The text with another line for the block that has an event: a pulse, readout or delay."""
    lines = text.split("\n")
    begin = lines.index("[BLOCKS]") + 1
    end = lines.index("", begin)
    column = {"rf": 2, "x": 3, "z": 5, "adc": 6}[kind]
    found = [n for n in range(begin, end) if lines[n].split()[column] != "0"]
    words = lines[found[which]].split()
    lines[found[which] : found[which] + 1] = [" ".join(new) for new in change(words)]
    return "\n".join(lines)


def with_extension(kind: str, extension: str, which: int = 0) -> str:
    text = changed_block(kind, lambda words: [[*words[:7], "1"]], which)
    return replaced("[SHAPES]", f"[EXTENSIONS]\n1 7 1 0\n\n{extension}\n\n[SHAPES]", text=text)


def without_section(name: str) -> str:
    return re.sub(rf"\[{name}\]\n(.*\n)*?\n", "", TEXT, count=1)


DAMAGED = {
    "empty": ("", ["no section [VERSION]", "no Pulseq file"]),
    "words": ("Dear reader,\n", ["line 1: 'Dear reader,' is in no section"]),
    "one long line": ("x" * 10**6, ["line 1: 'xxx", "is in no section"]),
    "zeros": ("\0" * 10**6, ["line 1", "is in no section"]),
    "binary": ("\x01pulseq\x02" + "\0" * 24, ["binary Pulseq file", "write it as text"]),
    "version 1.1": (replaced("minor 5", "minor 1"), ["[VERSION]: the version is 1.1.1", "1.2 to"]),
    "version 1.6": (replaced("minor 5", "minor 6"), ["[VERSION]: the version is 1.6.1"]),
    "version 2": (replaced("major 1", "major 2"), ["[VERSION]: the version is 2.5.1"]),
    "no minor version": (replaced("minor 5\n", ""), ["[VERSION]: the version is 1.?.1"]),
    "no version": (without_section("VERSION"), ["section [BLOCKS] stands before [VERSION]"]),
    "another version": (replaced("minor 5", "minor 4"), ["section [RF], line", "8 are expected"]),
    "version in words": (replaced("minor 5", "minor five"), ["[VERSION], line", "'five'"]),
    "delays since 1.4": (TEXT + "\n[DELAYS]\n1 100\n", ["'[DELAYS]' is no section", "1.5.1"]),
    "unknown section": (TEXT + "\n[NOISE]\n", ["'[NOISE]' is no section"]),
    "section twice": (TEXT + "\n[RF]\n", ["section [RF] is there twice"]),
    "no blocks": (without_section("BLOCKS"), ["no blocks (section [BLOCKS])"]),
    "no pulses": (without_section("RF"), ["[BLOCKS], line", "names event 1 of section [RF]"]),
    "no readouts": (without_section("ADC"), ["[BLOCKS], line", "event 1 of section [ADC]"]),
    "no gradients": (without_section("TRAP"), ["[BLOCKS], line", "of section [GRADIENTS]"]),
    "no shapes": (TEXT[: TEXT.index("[SHAPES]")], ["[RF], line", "names shape 3", "truncated"]),
    "no raster": (replaced("BlockDurationRaster 1e-05\n", ""), ["BlockDurationRaster is missing"]),
    "raster in words": (
        replaced("RasterTime 1e-06", "RasterTime 1 us"), ["RadiofrequencyRasterTime is '1 us'"]
    ),
    "infinite raster": (
        replaced("RasterTime 1e-05", "RasterTime inf"), ["GradientRasterTime is 'inf'"]
    ),
    "cut in a block": (
        TEXT[: TEXT.index("[RF]") - 6], ["[BLOCKS], line", "columns where 8 are expected"]
    ),
    "cut in a shape": (TEXT[:-4], ["[SHAPES], line", "truncated"]),
    "more columns": (
        changed_block("rf", lambda w: [[*w, "0"]]), ["9 columns or more where 8 are expected"]
    ),
    "a word for a number": (
        replaced("10 680 10 0", "10 long 10 0"), ["[TRAP], line", "'long', where a number"]
    ),
    "not a number": (replaced("10 680 10 0", "10 nan 10 0"), ["[TRAP], line", "'nan'"]),
    "infinite": (replaced("10 680 10 0", "10 1e999 10 0"), ["[TRAP], line", "'1e999'"]),
    "digits of another script": (replaced("2 10000 10", "2 १०००० 10"), ["'१००००'"]),
    "underscore": (replaced("2 10000 10", "2 10_000 10"), ["'10_000'"]),
    "negative event": (
        changed_block("rf", lambda w: [[w[0], w[1], "-1", *w[3:]]]), ["[BLOCKS], line", "'-1'"]
    ),
    "huge event": (
        changed_block("rf", lambda w: [[w[0], w[1], "9" * 5000, *w[3:]]]), ["'99999", "..."]
    ),
    "event twice": (replaced("[TRAP]\n1 ", "[TRAP]\n2 "), ["[TRAP], line", "event 2 is there tw"]),
    "event 0": (replaced("[TRAP]\n1 ", "[TRAP]\n0 "), ["event 0 has no number"]),
    "unknown event": (
        changed_block("adc", lambda w: [[*w[:6], "9", "0"]]), ["event 9 of section [ADC]"]
    ),
    "unknown use": (replaced(" 0.0 i\n", " 0.0 x\n"), ["[RF], line", "use of the pulse is 'x'"]),
    "unknown shape": (replaced(" 3 4 0 ", " 3 9 0 "), ["[RF], line", "names shape 9"]),
    "part of a shape": (replaced(" 3 4 0 ", " 3.5 4 0 "), ["names shape 3.5"]),
    "other shapes": (replaced(" 3 4 0 ", " 3 2 0 "), ["1000, 200 and 1000", "one number"]),
    "shape above 1": (replaced("\n1\n0\n0\n", "\n3\n0\n0\n"), ["reaches from 3 to 3; 0 to 1"]),
    "shape twice": (replaced("shape_id 3", "shape_id 1"), ["[SHAPES], line", "is there twice"]),
    "gigabytes": (
        replaced("num_samples 1000", "num_samples 2000000000"), ["[SHAPES], line", "1 to 1048576"]
    ),
    "no samples": (replaced("num_samples 1000", "num_samples 0"), ["has 0 samples"]),
    "longer than it says": (
        replaced("num_samples 200", "num_samples 3"), ["more than 3 numbers"]
    ),
    "count in words": (replaced("num_samples 200", "num_samples few"), ["'few'"]),
    "words in a shape": (replaced("\n197\n", "\nmany\n"), ["[SHAPES], line", "'many'"]),
    "no head of a shape": (replaced("shape_id 1\n", ""), ["where shape_id, then num_samples"]),
    "no such centre": (replaced(" 500.0 0 ", " 5000 0 "), ["its centre is 5000 us", "1000 us"]),
    "negative delay": (replaced(" 500.0 0 ", " 500.0 -5 "), ["its delay is negative"]),
    "negative rise": (replaced("10 680 10 0", "-10 680 10 0"), ["[TRAP], line", "not in order"]),
    "no dwell time": (replaced("17 40000", "17 0"), ["[ADC], line", "dwell time"]),
    "half a sample": (replaced("17 40000", "16.5 40000"), ["[ADC], line", "16.5 samples"]),
    "gigabytes of samples": (replaced("17 40000", "1e12 40000"), ["[ADC], line", "1 to 1048576"]),
    "short block": (
        changed_block("adc", lambda w: [[w[0], "60", *w[2:]]]), ["takes 600 us, its events 700"]
    ),
    "circle of extensions": (
        replaced("1 7 1 0", "1 7 1 1", text=with_extension("adc", "extension LABELSET 7\n1 0 LIN")),
        ["[EXTENSIONS], line", "form a circle"],
    ),
    "unknown list of extensions": (
        changed_block("adc", lambda w: [[*w[:7], "4"]]), ["event 4 of section [EXTENSIONS]"]
    ),
    "extension without a number": (
        with_extension("adc", "extension LABELSET"), ["'extension', a name and a number"]
    ),
    "no such rotation": (
        with_extension("adc", "extension ROTATIONS 7\n2 1 0 0 0"), ["event 1 of section [ROTATI"]
    ),
    "long quaternion": (
        with_extension("adc", "extension ROTATIONS 7\n1 1 1 0 0"), ["has the length 1.414"]
    ),
    "required extension": (
        replaced("Name train", "RequiredExtensions LABELSET SHIMS"),
        ["RequiredExtensions names 'SHIMS'", "give flip_angles"],
    ),
}  # fmt: skip


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(Mri2QmapError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert message.startswith(str(folder / "train.seq"))
    assert len(message) < 600
    return message


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(name, tmp_path):
    text, words = DAMAGED[name]
    message = refusal(tmp_path, text)
    for word in words:
        assert word in message


def second_pulse(words):
    return [words, words]


OTHER_TRAINS = {
    "no pulse": (
        re.sub(r"(?m)^(\d+ \d+) \d+ 0 0 0 0 0$", r"\1 0 0 0 0 0 0", TEXT), ["no block has"]
    ),
    "no inversion": (replaced(" 0.0 i\n", " 0.0 e\n"), ["excites with 180", "any inversion pulse"]),
    "no excitation": (
        TEXT[: TEXT.index("2 1990 0")] + TEXT[TEXT.index("\n[RF]") :], ["no excitation follows"]
    ),
    "no readouts": (re.sub(r"(?m) 1 0$", " 0 0", TEXT), ["no readout follows this excitation"]),
    "two pulses": (changed_block("rf", second_pulse, 2), ["[BLOCKS], line", "no readout follows"]),
    "two inversions": (changed_block("rf", second_pulse), ["no excitation follows the inversion"]),
    "two readouts": (changed_block("adc", second_pulse), ["second readout", "multi-echo"]),
    "reads after the inversion": (
        changed_block("rf", lambda w: [w, ["9", "70", "0", "2", "0", "0", "1", "0"]]),
        ["between the inversion pulse and the first excitation"],
    ),
    "refocusing": (replaced(" 0.0 e\n", " 0.0 r\n"), ["use 'r' (refocusing)", "flip_angles"]),
    "saturation": (replaced(" 0.0 e\n", " 0.0 s\n"), ["use 's' (saturation)"]),
    "preparation": (replaced(" 0.0 i\n", " 0.0 p\n"), ["use 'p' (preparation)"]),
    "half an inversion": (
        replaced("1 500.0 ", "1 250.0 "), ["[RF], line", "flip angle of 90 degrees; 180 are"]
    ),
    "pulse of two bands": (
        replaced("num_samples 200\n0\n0\n198", "num_samples 200\n0.25\n0.001\n0.001\n197"),
        ["[RF], line", "the phase changes within the pulse"],
    ),
    "amplitudes of channels": (
        with_extension("rf", "extension RF_SHIMS 7\n1 2 1 0 1 1.57", 1), ["RF_SHIMS"]
    ),
    "trigger": (
        with_extension("adc", "extension TRIGGERS 7\n1 2 1 0 2000"), ["waits for a trigger"]
    ),
    "soft delay": (
        with_extension("z", "extension DELAYS 7\n1 0 0 1 TR"), ["its delay is chosen at the"]
    ),
    "spoiled": (
        train_file(SEQUENCE, phase=np.deg2rad([0, 0, 117, 351, 702])), ["RF spoiling"]
    ),
    "alternating, receiver not": (
        train_file(SEQUENCE, phase=np.pi * np.arange(5)), ["the receiver does not follow"]
    ),
    "no gradient": (replaced("2 10000 10", "2 0 10"), ["there is no gradient during the readout"]),
    "reads the way back": (
        re.sub(r"(?m)^2 10000 .*$", "", TEXT).replace(
            "[TRAP]", "[GRADIENTS]\n2 20000 0 0 5 6 0\n\n[TRAP]"
        ).replace("1 -38333.3333", "1 0").replace(
            "[SHAPES]\n\n",
            "[SHAPES]\n\nshape_id 5\nnum_samples 6\n0\n1\n1\n-1\n-1\n0\n\n"
            "shape_id 6\nnum_samples 6\n0\n1\n34\n36\n69\n70\n\n",
        ),
        ["passes the centre of k-space 2 times"],
    ),
    "another group": (
        changed_block("z", lambda w: [[w[0], "110", *w[2:]]], 7),
        ["readout group 1 is not like the first", "TR of frame 2 is 14.1300 ms"],
    ),
    "another flip angle": (
        changed_block("rf", lambda w: [[*w[:2], "4", *w[3:]]], 7), ["has 60 degrees, in the first"]
    ),
    "another TI": (
        replaced("1990 0 0 0 0 0 0", "1991 0 0 0 0 0 0"), ["TI is 20.5000 ms, in the first 20.51"]
    ),
    "one frame less": (
        changed_block("rf", lambda w: [], -1, changed_block("adc", lambda w: [], -1)),
        ["it has 4 frames, the first 5"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TRAINS)
def test_train_that_the_model_does_not_describe(name, tmp_path):
    text, words = OTHER_TRAINS[name]
    message = refusal(tmp_path, text)
    for word in words:
        assert word in message


def test_balanced_gradients(tmp_path):
    """The spoiler is replaced by what brings the readout back to the centre."""
    area = 10000 * 690 - 38333.3333 * 90
    text = replaced("3 800000 100 800 100 0", f"3 {-area / 900} 100 800 100 0")
    balanced = re.sub(r"(?m)^(\d+ \d+ 0) 0 0 3 0 0$", r"\1 3 0 0 0 0", text)
    assert "bSSFP" in refusal(tmp_path, balanced)
    assert read(tmp_path, text).groups == 2  # along another axis they are not


def test_more_frames_than_a_scan_may_have(tmp_path):
    path = tmp_path / "train.seq"
    path.write_text(TEXT)
    with pytest.raises(Mri2QmapError, match="more than 4 frames"):
        read_train(str(path), 4)


def test_what_a_pulse_is_for_before_version_1_5(tmp_path):
    """The flip angle says it; it does not where the phase changes."""
    text = train_file(SEQUENCE, "1.4.2")
    adiabatic = replaced(
        "num_samples 1000\n0\n0\n998", "num_samples 1000\n0\n0.001\n0.001\n997", 1, text
    )
    assert "version 1.5 with the use of the pulse" in refusal(tmp_path, adiabatic)
    own = TEXT.replace("num_samples 1000\n0\n0\n998", "num_samples 1000\n0\n0.001\n0.001\n997")
    assert read(tmp_path, own).sequence == read(tmp_path, TEXT).sequence


def test_more_samples_than_are_read(tmp_path, monkeypatch):
    """Bounds on a whole file, made small here."""
    for name, most, words in (
        ("file.MOST_STORED", 12, "[SHAPES], line"),
        ("file.MOST_EVENTS", 9, "more than 9 definitions, events and shapes"),
        ("file.MOST_BLOCKS", 20, "[BLOCKS], line"),
        ("train._MOST_SAMPLES", 17 * 2, "more than 34 samples of different readouts"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"mri2qmap.pulseq.{name}", most)
            message = refusal(tmp_path, TEXT)
        assert words in message
        assert "write one readout group to a file of its own" in message


def test_changed_after_it_was_signed(tmp_path):
    text = (DATA / "spiral_v1_5.seq").read_text()
    message = refusal(tmp_path, replaced("TotalDuration", "TotalDurations", text=text))
    assert "the md5 hash is not that of the file" in message
    assert "remove this section" in message


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.seq")
    (tmp_path / "folder.seq").mkdir()
    (tmp_path / "device.seq").symlink_to("/dev/zero")
    large = tmp_path / "large.seq"
    with large.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    for name, words in (
        ("nowhere.seq", "it cannot be read"),
        ("pipe.seq", "this is not a file"),
        ("folder.seq", "this is not a file"),
        ("device.seq", "this is not a file"),
        ("large.seq", f"more than {LARGEST_FILE} bytes"),
        ("a\0b.seq", "it cannot be read"),
    ):
        with pytest.raises(Mri2QmapError, match=words):
            read_train(str(tmp_path / name), MOST_FRAMES)


@pytest.mark.parametrize("version", VERSIONS)
def test_random_damage(version, tmp_path):
    """Each change gives a train or an error that names the file, and no other exception."""
    chance = random.Random(int(version[2]))
    text = train_file(SEQUENCE, version)
    words = [
        "-1",
        "0",
        "\x1b[1m",
        "1e300",
        "nan",
        "1",
        "2",
        "99999",
        "[RF]",
        "x",
        "\n",
        "",
        "0.5",
        "-0.0",
    ]
    refused = []
    for _ in range(150):
        parts = re.split(r"(\s+)", text)
        for _ in range(chance.choice([1, 1, 3])):
            parts[chance.randrange(0, len(parts), 2)] = chance.choice(words)
        broken = "".join(parts)
        if chance.random() < 0.2:
            broken = broken[: chance.randrange(len(broken))]
        try:
            assert read(tmp_path, broken).sequence.n_frames > 1
        except Mri2QmapError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all(message.startswith(str(tmp_path / "train.seq")) for message in refused)
    assert all(message.isprintable() for message in refused)
