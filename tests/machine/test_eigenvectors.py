"""Eigenvectors by blocks with checks, as on a GPU, run on the CPU."""

import threading
import time

import pytest
import torch

from mri2qmap.machine import eigenvectors
from mri2qmap.machine.cancellation import Cancellation
from mri2qmap.machine.eigenvectors import (
    _by_blocks,
    _checked_decomposition,
    hermitian_eigenvectors,
)


def hermitian(count, kind):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(count, 4, 4, dtype=kind, generator=generator)
    return matrices @ matrices.mH


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
@pytest.mark.parametrize("shape", [(25,), (5, 5), (1,)])
def test_blocks_are_the_decomposition(kind, shape):
    matrices = hermitian(25, kind)[: torch.Size(shape).numel()].reshape(*shape, 4, 4)
    values, vectors = _by_blocks(matrices, 10, _checked_decomposition)
    torch.testing.assert_close(values, torch.linalg.eigh(matrices).eigenvalues)
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mH, matrices)


def test_none():
    values, vectors = hermitian_eigenvectors(torch.empty(0, 3, 3))
    assert values.shape == (0, 3)
    assert vectors.shape == (0, 3, 3)


def test_zeros_are_right():
    values, vectors = _by_blocks(torch.zeros(3, 2, 2), 10, _checked_decomposition)
    assert not bool(values.any())
    torch.testing.assert_close(vectors.mH @ vectors, torch.eye(2).expand(3, -1, -1))


@pytest.mark.parametrize("wrong", ["values", "vectors", "orthonormality", "nan", "error"])
def test_wrong_results_are_computed_again(wrong, monkeypatch):
    """By a library that fails at blocks, but not at what is given to it afterwards."""
    right, calls = torch.linalg.eigh, []

    def broken(matrices):
        values, vectors = (part.clone() for part in right(matrices))
        calls.append(len(matrices))
        if len(calls) == 2:
            if wrong == "values":
                values[3, 0] *= 1.1 if float(values[3, 0]) > 1 else 100
            elif wrong == "vectors":
                vectors[3] = torch.eye(4)
            elif wrong == "orthonormality":
                vectors[3, :, 0] = vectors[3, :, 1]
            elif wrong == "error":
                raise torch.linalg.LinAlgError("did not converge")
            else:
                vectors[3, 0, 0] = torch.nan
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", broken)
    matrices = hermitian(25, torch.complex64)
    values, vectors = _by_blocks(matrices, 10, _checked_decomposition)
    torch.testing.assert_close((vectors * values[..., None, :]) @ vectors.mH, matrices)
    assert calls == [10, 10, 10, 5]


@pytest.mark.parametrize("work", [10 * 4**3, 1])
def test_blocks_on_the_cpu(work, monkeypatch):
    monkeypatch.setattr(eigenvectors, "_WORK", work)
    matrices = hermitian(25, torch.complex64)
    for found, expected in zip(
        hermitian_eigenvectors(matrices), torch.linalg.eigh(matrices), strict=True
    ):
        assert torch.equal(found, expected)


def test_many_large_matrices_can_be_cancelled():
    cancellation = Cancellation()
    timer = threading.Timer(0.5, cancellation.cancel, (KeyboardInterrupt(),))
    timer.start()
    began = time.monotonic()
    with cancellation.active(), pytest.raises(KeyboardInterrupt):
        hermitian_eigenvectors(torch.zeros(2000, 256, 256) + torch.diag(torch.arange(256.0)))
    timer.join()
    assert time.monotonic() - began < 30  # a minute without a look
