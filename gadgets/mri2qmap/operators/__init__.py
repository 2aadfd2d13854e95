"""Linear operators of the reconstruction, with one interface: see `LinearOperator`.

`A @ x` applies an operator, `A.H` is its adjoint and `A.gram` is A^H A:

====================  ======================  ==========================
operator              domain                  range
====================  ======================  ==========================
`Nufft`               (..., z, y, x)          (..., samples)
`SubspaceSampling`    TSMI (s, z, y, x)       k-space (c, samples)
`ToeplitzGram`        TSMI (s, z, y, x)       TSMI (s, z, y, x)
`BlockCirculant`      TSMI (s, z, y, x)       TSMI (s, z, y, x)
`CirculantGram`       TSMI (s, z, y, x)       TSMI (s, z, y, x)
`FiniteDifferences`   (..., z, y, x)          (3, ..., z, y, x)
`Identity`            any                     the same
====================  ======================  ==========================

`toeplitz_kernels` computes the kernels of a `ToeplitzGram` from a set of samples. Modules are
imported when one of their names is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.operators.circulant import BlockCirculant, CirculantGram
    from mri2qmap.operators.finite_differences import FiniteDifferences
    from mri2qmap.operators.linear_operator import Identity, LinearOperator, SelfAdjointOperator
    from mri2qmap.operators.nufft import Nufft
    from mri2qmap.operators.subspace_sampling import SubspaceSampling
    from mri2qmap.operators.toeplitz import ToeplitzGram, toeplitz_kernels

__all__ = [
    "BlockCirculant",
    "CirculantGram",
    "FiniteDifferences",
    "Identity",
    "LinearOperator",
    "Nufft",
    "SelfAdjointOperator",
    "SubspaceSampling",
    "ToeplitzGram",
    "toeplitz_kernels",
]

_MODULES = {
    "BlockCirculant": "circulant",
    "CirculantGram": "circulant",
    "FiniteDifferences": "finite_differences",
    "Identity": "linear_operator",
    "LinearOperator": "linear_operator",
    "Nufft": "nufft",
    "SelfAdjointOperator": "linear_operator",
    "SubspaceSampling": "subspace_sampling",
    "ToeplitzGram": "toeplitz",
    "toeplitz_kernels": "toeplitz",
}

__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
