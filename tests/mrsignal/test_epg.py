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


def test_a_simulation_in_threads_can_be_cancelled(monkeypatch):
    """Of all chunks, those that run and those that wait."""
    cancellation, simulated = Cancellation(), []
    times = torch.linspace(0.5, 2, 40 * epg.ATOMS_PER_CHUNK)
    simulate = epg._simulate

    def one(t1, t2, b1, sequence):
        simulated.append(len(t1))
        cancellation.cancel(ConnectionError("the client is gone"))
        return simulate(t1, t2, b1, sequence)

    monkeypatch.setattr(epg, "_simulate", one)
    with cancellation.active(), pytest.raises(ConnectionError, match="the client is gone"):
        fisp_signal(times, times / 10, default_sequence(50))
    assert len(simulated) < 40
