"""Collection of the parts of the normal equations A^H A X = A^H Y from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.process_group import SINGLE_PROCESS, ProcessGroup
from mri2qmap.operators.toeplitz import ToeplitzGram
from mri2qmap.pipeline.items import AdjointTsmi, CoilMaps, Item, ToeplitzKernels, Tsmi


@dataclass
class NormalEquations:
    """Coil maps, right-hand side, kernels and solution that have arrived.

    Attributes
    ----------
    solution
        X, from which a later gadget goes on.
    spare_memory
        See `ToeplitzGram`.
    """

    _coil_maps: CoilMaps | None = None
    _adjoint: AdjointTsmi | None = None
    _kernels: ToeplitzKernels | None = None
    solution: Tsmi | None = None
    spare_memory: bool = False

    @property
    def adjoint(self) -> AdjointTsmi:
        """The right-hand side A^H Y."""
        if self._adjoint is None:
            raise ValueError("the adjoint TSMI has not arrived")
        return self._adjoint

    def gram(self, processes: ProcessGroup = SINGLE_PROCESS) -> ToeplitzGram:
        """The operator A^H A, which several processes apply together."""
        if self._coil_maps is None or self._kernels is None:
            raise ValueError("coil maps or kernels have not arrived")
        maps = self._coil_maps.maps
        # the map of a single coil is 1 everywhere
        return ToeplitzGram(
            self._kernels.kernels,
            maps if len(maps) > 1 else None,
            self._kernels.scale,
            self.spare_memory,
            processes,
        )

    def items(self) -> Iterator[Item]:
        """Yield the parts that a later gadget needs to solve the system again."""
        for item in (self._coil_maps, self._adjoint, self._kernels):
            if item is not None:
                yield item

    def take(self, item: Item) -> bool:
        """Store the item if it is a part of the system; return whether it is."""
        if isinstance(item, CoilMaps):
            self._coil_maps = item
        elif isinstance(item, AdjointTsmi):
            self._adjoint = item
        elif isinstance(item, ToeplitzKernels):
            self._kernels = item
        elif isinstance(item, Tsmi):
            self.solution = item
        else:
            return False
        return True

    def release_solution(self) -> Tsmi:
        """Return the solution and forget it, so that only the caller decides how long it lives."""
        solution, self.solution = self.solution, None
        if solution is None:
            raise ValueError("the solution has not arrived")
        return solution

    def missing(self) -> list[str]:
        """Names of the parts that have not arrived."""
        parts = {
            "coil maps": self._coil_maps,
            "adjoint TSMI": self._adjoint,
            "Toeplitz kernels": self._kernels,
        }
        return [name for name, part in parts.items() if part is None]


def collect_normal_equations(
    items: Iterator[Item], system: NormalEquations, gadget: str
) -> Iterator[Item]:
    """Fill the system from the stream; yield all other items.

    Raises
    ------
    Mri2QmapError
        If a part is missing at the end of the stream; the message names the gadget and the part.
    """
    for item in items:
        if not system.take(item):
            yield item
    if missing := system.missing():
        raise Mri2QmapError(
            f"{gadget}: {', '.join(missing)} did not arrive; the pipeline needs coil_sensitivity "
            'and subspace_compression with output="normal_equations" before this gadget'
        )
