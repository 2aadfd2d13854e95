import dataclasses
import hashlib
import logging
import math
import os

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mri2qmap.machine import folders
from mri2qmap.machine.folders import cache_folder
from mri2qmap.mrsignal import dictionary as dictionary_module
from mri2qmap.mrsignal.dictionary import (
    DictionarySettings,
    build_dictionary,
    load_dictionary,
    lookup_table,
    subspace,
)
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence, default_sequence
from mri2qmap.mrsignal.subspace import temporal_subspace
from mri2qmap.mrsignal.synthesis import (
    DEFAULT_SYNTHESIS,
    Contrast,
    SpinEcho,
    spin_echo,
    synthesise,
)

COARSE = DictionarySettings(step=0.3)
SHORT = default_sequence(40)
OTHER_ECHOES = (SpinEcho(0.3, 0.015), SpinEcho(4.0, 0.08), SpinEcho(3.0, 0.005))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path / "cache"))


def test_default_table_covers_the_ranges():
    lut = lookup_table(DictionarySettings())
    assert len(lut) == 2811
    assert bool((lut.t2 <= lut.t1).all())
    for values, low, high in ((lut.t1, 0.1, 4.5), (lut.t2, 0.01, 2.2)):
        assert float(values.min()) == pytest.approx(low, rel=1e-5)
        assert float(values.max()) == pytest.approx(high, rel=1e-5)
    t1 = lut.t1.unique()
    assert float((t1[1:] / t1[:-1]).max()) <= 1.08 + 1e-5


def test_the_subspace_is_optimal_for_its_size():
    signals = torch.randn(50, 12, generator=torch.Generator().manual_seed(0))
    basis, kept = temporal_subspace(signals, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-5, rtol=0)
    unit = signals / signals.norm(dim=1, keepdim=True)
    values = torch.linalg.svdvals(unit)
    assert kept == pytest.approx(float(values[:4].square().sum() / values.square().sum()), rel=1e-5)
    remainder = unit - unit @ basis @ basis.T
    assert float(remainder.square().sum()) == pytest.approx(
        float(values[4:].square().sum()), rel=1e-4
    )


def test_subspace_of_complex_signals():
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(3, 15, dtype=torch.complex64, generator=generator)
    signals = torch.randn(60, 3, dtype=torch.complex64, generator=generator) @ mixing
    basis, kept = temporal_subspace(signals, 3)
    assert kept == pytest.approx(1.0, abs=1e-5)
    # Signals are linear combinations of the basis vectors: x = Phi (Phi^H x).
    projected = (signals @ basis.conj()) @ basis.T
    torch.testing.assert_close(projected, signals, atol=1e-4, rtol=1e-4)


def test_the_subspace_of_fewer_signals_than_frames():
    generator = torch.Generator().manual_seed(2)
    signals = torch.randn(9, 40, dtype=torch.complex64, generator=generator)
    basis, kept = temporal_subspace(signals, 4)
    twice, again = temporal_subspace(signals.repeat(5, 1), 4)  # the same space of more signals
    assert kept == pytest.approx(again, rel=1e-6)
    torch.testing.assert_close(basis, twice, atol=1e-5, rtol=0)
    torch.testing.assert_close(basis.mH @ basis, torch.eye(4) + 0j, atol=1e-5, rtol=0)
    alike, _ = temporal_subspace(signals[:1].repeat(6, 1), 4)  # of rank 1
    torch.testing.assert_close(alike.mH @ alike, torch.eye(4) + 0j, atol=1e-5, rtol=0)


def test_too_many_coefficients():
    with pytest.raises(ValueError, match="9 coefficients requested; expected 1 to 8"):
        temporal_subspace(torch.ones(5, 8), 9)


def test_atoms_are_compressed_signals():
    dictionary = build_dictionary(SHORT, COARSE)
    assert dictionary.energy_kept > 0.99
    signals = fisp_signal(dictionary.lut.t1, dictionary.lut.t2, SHORT)
    restored = dictionary.mrf_atoms @ dictionary.basis.T
    error = (restored - signals).norm(dim=1) / signals.norm(dim=1)
    assert float(error.median()) < 0.05
    torch.testing.assert_close(
        dictionary.mri_atoms.T,
        synthesise(torch.ones(len(dictionary.lut)), dictionary.lut.t1, dictionary.lut.t2),
    )


def test_the_basis_is_independent_of_the_matched_table():
    reference, _ = subspace(SHORT, 5)
    for settings in (COARSE, dataclasses.replace(COARSE, step=0.5, b1=0.8)):
        torch.testing.assert_close(build_dictionary(SHORT, settings).basis, reference)


def test_spin_echo_by_hand():
    image = spin_echo(
        torch.tensor([2j, 1, 1]),
        torch.tensor([1.0, 1.0, 0.0]),
        torch.tensor([0.1, 0.1, 0.0]),
        SpinEcho(1.0, 0.1),
    )
    expected = (1 - torch.exp(torch.tensor(-1.0))) * torch.exp(torch.tensor(-1.0))
    torch.testing.assert_close(image, torch.stack([2 * expected, expected, torch.tensor(0.0)]))


def test_cache_is_used_and_keyed_by_the_sequence(monkeypatch):
    first = load_dictionary(SHORT, COARSE)
    assert len(list(cache_folder().glob("*.safetensors"))) == 1

    def refuse(*_):
        raise AssertionError("simulated again")

    with monkeypatch.context() as patch:
        patch.setattr("mri2qmap.mrsignal.dictionary.fisp_signal", refuse)
        again = load_dictionary(SHORT, COARSE)
    torch.testing.assert_close(again.mrf_atoms, first.mrf_atoms)
    assert again.energy_kept == first.energy_kept

    load_dictionary(default_sequence(41), COARSE)
    load_dictionary(SHORT, dataclasses.replace(COARSE, b1=0.9))
    assert len(list(cache_folder().glob("*"))) == 3


def test_other_echoes_are_synthesised_over_the_same_cached_fingerprints(monkeypatch):
    plain = load_dictionary(SHORT, COARSE)
    monkeypatch.setattr("mri2qmap.mrsignal.dictionary.fisp_signal", None)
    other = load_dictionary(SHORT, dataclasses.replace(COARSE, echoes=OTHER_ECHOES))
    assert torch.equal(other.mrf_atoms, plain.mrf_atoms)
    lut = plain.lut
    for column, echo in enumerate(OTHER_ECHOES):
        expected = spin_echo(torch.ones(len(lut)), lut.t1, lut.t2, echo)
        torch.testing.assert_close(other.mri_atoms[:, column], expected)
        assert not torch.allclose(plain.mri_atoms[:, column], expected)
    assert torch.equal(load_dictionary(SHORT, COARSE).mri_atoms, plain.mri_atoms)


def test_a_dictionary_first_built_with_other_echoes():
    settings = dataclasses.replace(COARSE, echoes=OTHER_ECHOES)
    first = load_dictionary(SHORT, settings)
    assert torch.equal(first.mri_atoms, build_dictionary(SHORT, settings).mri_atoms)
    plain = load_dictionary(SHORT, COARSE)  # from the cached file
    assert torch.equal(plain.mri_atoms, build_dictionary(SHORT, COARSE).mri_atoms)
    assert len(list(cache_folder().glob("*"))) == 1


def test_settings_that_were_added_later_change_no_name_of_a_cached_dictionary():
    """With their defaults, as long as the simulation is the same."""
    load_dictionary(SHORT, COARSE)
    (path,) = cache_folder().glob("*")
    parts = (
        dictionary_module.CACHE_VERSION,
        SHORT.digest(),
        {
            "t1_range": (0.1, 4.5),
            "t2_range": (0.01, 2.2),
            "step": 0.3,
            "coefficients": 5,
            "b1": 1.0,
        },
        dict(zip(Contrast, DEFAULT_SYNTHESIS, strict=True)),
    )
    assert path.stem.split("-")[1] == hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def test_a_damaged_cache_file_is_rebuilt(caplog):
    first = load_dictionary(SHORT, COARSE)
    (path,) = cache_folder().glob("*")
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        again = load_dictionary(SHORT, COARSE)
    assert "unreadable" in caplog.text
    torch.testing.assert_close(again.mrf_atoms, first.mrf_atoms)


def test_an_unwritable_cache_costs_only_time(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for name in ("MRI2QMAP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(folders, "home_folder", lambda: None)
    monkeypatch.setattr(folders, "_temporary", lambda: (None, "nothing temporary"))
    with caplog.at_level(logging.WARNING):
        dictionary = load_dictionary(SHORT, COARSE)
    assert len(dictionary.lut) > 100
    assert "cannot be cached" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t1_range": (1.0, 0.5)}, "t1_range must be two ascending"),
        ({"t2_range": (0.0, 0.5)}, "t2_range must be two ascending"),
        ({"step": 0.0}, "step must lie between"),
        ({"coefficients": 0}, "coefficients must lie"),
        ({"b1": 5.0}, "b1 must lie"),
        ({"echoes": (SpinEcho(0.0, 0.01), *DEFAULT_SYNTHESIS[1:])}, "tr_t1w must be between"),
        ({"echoes": (SpinEcho(500.0, 0.01), *DEFAULT_SYNTHESIS[1:])}, "tr_t1w .* 60 s, got 500"),
        ({"echoes": (SpinEcho(math.nan, 0.01), *DEFAULT_SYNTHESIS[1:])}, "tr_t1w must be between"),
        ({"echoes": (*DEFAULT_SYNTHESIS[:2], SpinEcho(5.0, 0.0))}, "te_pdw must be between"),
        ({"echoes": (*DEFAULT_SYNTHESIS[:2], SpinEcho(5.0, math.inf))}, "te_pdw must be between"),
        ({"echoes": (*DEFAULT_SYNTHESIS[:2], SpinEcho(5.0, 10.0))}, "te_pdw .* tr_pdw = 5 s"),
    ],
)
def test_refused_settings(change, message):
    with pytest.raises(ValueError, match=message):
        DictionarySettings(**change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (), (), 0.02), "no frames"),
        (((0.1, 0.2), (0.01,), (1e-3, 1e-3), 0.02), "1 repetition_times for 2"),
        (((0.1,), (0.01,), (0.02,), 0.02), "TE must be shorter"),
        (((float("nan"),), (0.01,), (1e-3,), 0.02), "not finite"),
        (((0.1,), (0.0,), (0.0,), 0.02), "TR must be positive"),
    ],
)
def test_refused_sequences(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sequence(*arguments)


def test_the_cache_is_bounded_and_keeps_what_is_used(monkeypatch):
    """A client that sends one table after the other."""
    load_dictionary(SHORT, COARSE)
    (first,) = cache_folder().glob("*")
    monkeypatch.setenv("MRI2QMAP_CACHE_SIZE", f"{3.5 * first.stat().st_size / 1000}kB")
    for number in range(1, 9):
        os.utime(first, (1000 + number,) * 2)  # older than all others, until it is read
        load_dictionary(SHORT, COARSE)
        load_dictionary(SHORT, dataclasses.replace(COARSE, b1=1 + 0.01 * number))
        assert len(list(cache_folder().glob("*"))) == min(number + 1, 3)
        assert first.exists()


def test_the_time_of_use_need_not_be_noted(monkeypatch):
    """The file may be in a folder of somebody else."""
    first = load_dictionary(SHORT, COARSE)

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refused)
    monkeypatch.setattr(dictionary_module, "build_dictionary", None)
    torch.testing.assert_close(load_dictionary(SHORT, COARSE).mrf_atoms, first.mrf_atoms)


def test_a_full_disk_costs_only_time(monkeypatch, tmp_path, caplog):
    """safetensors raises its own error type, not OSError."""
    monkeypatch.setenv("MRI2QMAP_CACHE", str(tmp_path))

    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr(dictionary_module, "save_file", full)
    with caplog.at_level(logging.WARNING):
        dictionary = load_dictionary(SHORT, COARSE)
    assert len(dictionary.lut) > 100
    assert "No space left" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_shapes_or_nans_is_rebuilt(caplog):
    first = load_dictionary(SHORT, COARSE)
    (path,) = cache_folder().glob("dictionary-*")
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}
        metadata = file.metadata()
    for change in ({"t2": kept["t2"][1:]}, {"mrf_atoms": kept["mrf_atoms"] * torch.nan}):
        save_file({**kept, **{k: v.contiguous() for k, v in change.items()}}, path, metadata)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = load_dictionary(SHORT, COARSE)
        assert "has another shape or is not finite" in caplog.text
        assert torch.equal(again.mrf_atoms, first.mrf_atoms)
