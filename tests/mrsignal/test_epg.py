import numpy as np
import pytest
import torch

from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.mrsignal import epg
from mri2qmap.mrsignal.epg import fisp_signal
from mri2qmap.mrsignal.sequence import Sequence, default_sequence

TISSUES = [(4.0, 1.99), (1.25, 0.09), (0.75, 0.07), (0.25, 0.07), (0.1, 0.01), (4.5, 2.2)]
T1, T2 = (torch.tensor(column) for column in zip(*TISSUES, strict=True))


def isochromat_signal(t1, t2, sequence, b1):
    """Bloch simulation of spins that the spoiler rotates by multiples of 2 pi / n.

    Independent of configuration states: rotations and relaxation of magnetisation vectors. With
    more spins than frames no echo can alias.
    """
    n_spins = sequence.n_frames + 1
    precession = np.exp(2j * np.pi * np.arange(n_spins) / n_spins)
    transverse = np.zeros(n_spins, dtype=complex)
    longitudinal = np.full(n_spins, 1 - 2 * np.exp(-sequence.inversion_time / t1))
    signal = []
    for angle, tr, te in zip(
        sequence.flip_angles, sequence.repetition_times, sequence.echo_times, strict=True
    ):
        cos, sin = np.cos(b1 * angle), np.sin(b1 * angle)
        x = transverse.real * cos + longitudinal * sin
        z = longitudinal * cos - transverse.real * sin
        transverse = x + 1j * transverse.imag
        signal.append(transverse.mean() * np.exp(-te / t2))
        transverse = transverse * np.exp(-tr / t2) * precession
        longitudinal = 1 + (z - 1) * np.exp(-tr / t1)
    return np.array(signal)


@pytest.mark.parametrize("b1", [1.0, 0.8])
def test_agrees_with_isochromats(b1):
    sequence = default_sequence()
    signal = fisp_signal(T1, T2, sequence, b1).numpy()
    for atom, (t1, t2) in enumerate(TISSUES):
        reference = isochromat_signal(t1, t2, sequence, b1)
        error = np.linalg.norm(signal[atom] - reference) / np.linalg.norm(reference)
        assert error < 1e-3
        assert np.abs(signal[atom] - reference).max() < 1e-3 * np.abs(reference).max()


def test_agrees_with_a_published_package():
    pytest.importorskip("epyg", reason="the EPG package epyg is not installed")
    from epyg.EpyG import epg
    from epyg.Operators import Epsilon, Shift, Transform

    sequence = default_sequence(200)
    signal = fisp_signal(T1, T2, sequence).numpy()
    for atom, (t1, t2) in enumerate(TISSUES[:3]):
        state = epg(initial_size=256, m0=1 - 2 * np.exp(-sequence.inversion_time / t1))
        reference = []
        for angle, tr, te in zip(
            sequence.flip_angles, sequence.repetition_times, sequence.echo_times, strict=True
        ):
            Transform(angle, np.pi / 2).apply(state)
            Epsilon(te / t1, te / t2).apply(state)
            reference.append(state.get_f(0))
            Epsilon((tr - te) / t1, (tr - te) / t2).apply(state)
            Shift().apply(state)
        reference = np.array(reference)
        sign = np.sign(reference[0].real) * np.sign(signal[atom, 0])  # direction of the flip axis
        assert np.linalg.norm(signal[atom] - sign * reference) < 1e-3 * np.linalg.norm(reference)


def test_frames_of_unequal_timing():
    sequence = Sequence((0.3, 0.9, 0.1, 0.6), (0.01, 0.02, 0.015, 0.012), (1e-3, 5e-3, 0, 2e-3), 0)
    signal = fisp_signal(T1, T2, sequence).numpy()
    for atom, (t1, t2) in enumerate(TISSUES):
        np.testing.assert_allclose(
            signal[atom], isochromat_signal(t1, t2, sequence, 1.0), rtol=0, atol=2e-6
        )


def test_first_frame_is_the_inverted_magnetisation():
    sequence = Sequence((np.pi / 2,), (10e-3,), (0.0,), 20e-3)
    signal = fisp_signal(T1, T2, sequence)[:, 0]
    torch.testing.assert_close(signal, 1 - 2 * torch.exp(-0.02 / T1))


def test_b1_scales_the_flip_angles_of_each_atom():
    sequence = default_sequence(60)
    scaled = Sequence(
        tuple(0.9 * a for a in sequence.flip_angles),
        sequence.repetition_times,
        sequence.echo_times,
        sequence.inversion_time,
    )
    b1 = torch.tensor([0.9, 1.0, 0.9, 1.0, 0.9, 1.0])
    mixed = fisp_signal(T1, T2, sequence, b1)
    torch.testing.assert_close(mixed[0::2], fisp_signal(T1, T2, scaled)[0::2])
    torch.testing.assert_close(mixed[1::2], fisp_signal(T1, T2, sequence)[1::2])


@pytest.mark.parametrize("n_atoms", [1, 15, 16, 17, 300])
def test_the_compiled_simulation_equals_that_for_gpus(n_atoms):
    """Atoms are simulated in rows of 16 and groups of 128; the last ones are incomplete."""
    generator = torch.Generator().manual_seed(n_atoms)
    t1 = 0.05 + 4 * torch.rand(n_atoms, generator=generator)
    t2 = t1 * torch.rand(n_atoms, generator=generator)
    b1 = 0.7 + 0.6 * torch.rand(n_atoms, generator=generator)
    sequence = default_sequence(101)
    signal = fisp_signal(t1, t2, sequence, b1)
    assert signal.shape == (n_atoms, 101)
    torch.testing.assert_close(signal, epg._simulate(t1, t2, b1, sequence), atol=5e-6, rtol=0)


def test_progress_is_reported(monkeypatch):
    monkeypatch.setattr(epg, "_ATOMS_PER_STEP", 4)
    seen = []

    def progress(steps, description):
        for step in steps:
            seen.append((step, description))
            yield step

    expected = fisp_signal(T1, T2, default_sequence(20))
    found = fisp_signal(T1, T2, default_sequence(20), progress=progress)
    assert seen == [(0, "simulating the dictionary"), (4, "simulating the dictionary")]
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_relaxation_times_of_zero_are_limits():
    sequence = default_sequence(20)
    zero, tiny = torch.zeros(2), torch.full((2,), 1e-9)
    t1 = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(fisp_signal(t1, zero, sequence), fisp_signal(t1, tiny, sequence))


def test_no_atoms_have_no_signal():
    nothing = torch.empty(0)
    assert fisp_signal(nothing, nothing, default_sequence(20)).shape == (0, 20)


def test_a_simulation_can_be_cancelled(monkeypatch):
    """In all its threads."""
    cancellation, simulated = Cancellation(), []
    times = torch.linspace(0.5, 2, 100 * 128)
    simulate = epg.simulate_atoms

    def one(*arguments):
        simulated.append(1)
        cancellation.cancel(ConnectionError("the client is gone"))
        return simulate(*arguments)

    monkeypatch.setattr(epg, "simulate_atoms", one)
    with cancellation.active(), pytest.raises(ConnectionError, match="the client is gone"):
        fisp_signal(times, times / 10, default_sequence(50))
    assert len(simulated) < 10
