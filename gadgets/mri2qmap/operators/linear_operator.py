"""The interface of linear operators on tensors: application, adjoint, gram, products and sums."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import overload

import torch

Shape = tuple[int, ...]


class LinearOperator(ABC):
    """A linear map A from tensors of `domain_shape` to tensors of `range_shape`.

    ``A(x)`` and ``A @ x`` apply it, ``A.H`` is the adjoint A^H, ``A.gram`` is A^H A. ``A @ B`` is
    the product of two operators, ``A + B`` their sum, and ``factor * A`` a real multiple.

    A subclass provides the shapes, `forward` and `adjoint`. Both return a new tensor, which the
    caller may overwrite, and leave their argument as it is.
    """

    @property
    @abstractmethod
    def domain_shape(self) -> Shape:
        """Shape of the tensors that the operator takes; the axis order is that of `forward`."""

    @property
    @abstractmethod
    def range_shape(self) -> Shape:
        """Shape of the tensors that the operator returns; the axis order is that of `forward`."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A x, of `range_shape`."""

    @abstractmethod
    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """A^H y, of `domain_shape`."""

    def add_to(self, total: torch.Tensor, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """Add ``factor`` A x to a tensor in place, and return it."""
        return total.add_(self.forward(x), alpha=factor)

    @property
    def H(self) -> LinearOperator:  # noqa: N802 - the symbol of the adjoint
        """The adjoint A^H."""
        return _Adjoint(self)

    @property
    def gram(self) -> LinearOperator:
        """A^H A; the product of both unless a subclass has a faster form."""
        return self.H @ self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """A x."""
        return self.forward(x)

    @overload
    def __matmul__(self, other: torch.Tensor) -> torch.Tensor: ...

    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...

    def __matmul__(self, other: torch.Tensor | LinearOperator) -> torch.Tensor | LinearOperator:
        """A x of a tensor, A B of an operator."""
        if isinstance(other, LinearOperator):
            return _Product(self, other)
        return self.forward(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """A + B."""
        return _Sum(self, other)

    def __rmul__(self, factor: float) -> LinearOperator:
        """``factor`` A, for a real factor."""
        return _Multiple(float(factor), self)


class SelfAdjointOperator(LinearOperator):
    """A linear operator that is its own adjoint; a subclass provides domain and `forward`."""

    @property
    def range_shape(self) -> Shape:
        """The same as `domain_shape`."""
        return self.domain_shape

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        """The same as `forward`."""
        return self.forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        """The operator itself."""
        return self


class Identity(SelfAdjointOperator):
    """The identity.

    Parameters
    ----------
    shape
        Shape of the tensors.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = tuple(shape)

    @property
    def domain_shape(self) -> Shape:
        """Shape of the tensors."""
        return self._shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A copy of x."""
        return x.clone()

    def add_to(self, total: torch.Tensor, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        """Add ``factor`` x without a copy of it."""
        return total.add_(x, alpha=factor)


class _Adjoint(LinearOperator):
    """The adjoint of an operator."""

    def __init__(self, operator: LinearOperator) -> None:
        self._operator = operator

    @property
    def domain_shape(self) -> Shape:
        return self._operator.range_shape

    @property
    def range_shape(self) -> Shape:
        return self._operator.domain_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._operator.adjoint(x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._operator.forward(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self._operator


class _Product(LinearOperator):
    """A B: first B, then A."""

    def __init__(self, outer: LinearOperator, inner: LinearOperator) -> None:
        if inner.range_shape != outer.domain_shape:
            raise ValueError(
                f"the product of {type(outer).__name__} and {type(inner).__name__}: the first "
                f"takes tensors of shape {outer.domain_shape}, the second returns "
                f"{inner.range_shape}"
            )
        self._outer, self._inner = outer, inner

    @property
    def domain_shape(self) -> Shape:
        return self._inner.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self._outer.range_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._outer.forward(self._inner.forward(x))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._inner.adjoint(self._outer.adjoint(y))


class _Multiple(LinearOperator):
    """A real multiple of an operator."""

    def __init__(self, factor: float, operator: LinearOperator) -> None:
        self._factor, self._operator = factor, operator

    @property
    def domain_shape(self) -> Shape:
        return self._operator.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self._operator.range_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._operator.forward(x).mul_(self._factor)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._operator.adjoint(y).mul_(self._factor)

    def add_to(self, total: torch.Tensor, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return self._operator.add_to(total, x, factor * self._factor)


class _Sum(LinearOperator):
    """The sum of two operators; the second is added in place to what the first returns."""

    def __init__(self, first: LinearOperator, second: LinearOperator) -> None:
        shapes = [(term.domain_shape, term.range_shape) for term in (first, second)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the sum of {type(first).__name__} and {type(second).__name__}: domain and range "
                f"must be the same, got {shapes[0]} and {shapes[1]}"
            )
        self._first, self._second = first, second

    @property
    def domain_shape(self) -> Shape:
        return self._first.domain_shape

    @property
    def range_shape(self) -> Shape:
        return self._first.range_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._second.add_to(self._first.forward(x), x)

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self._second.H.add_to(self._first.adjoint(y), y)
