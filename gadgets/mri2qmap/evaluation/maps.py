"""The maps of one reconstruction as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mri2qmap.errors import Mri2QmapError
from mri2qmap.storage.inputs import as_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

    from mri2qmap.pipeline.geometry import Geometry

UNITS: Mapping[str, str] = {
    "t1": "s",
    "t2": "s",
    "proton_density": "a.u.",
    "match_quality": "1",
    "t1_std": "s",
    "t2_std": "s",
    "consistency": "1",
    "receive_field_map": "1",
    "T1w": "a.u.",
    "T2w": "a.u.",
    "PDw": "a.u.",
}
"""Unit of each map and synthesised image; "a.u." are arbitrary units."""


class MapWriter(Protocol):
    """Writes the maps of a reconstruction as `mri2qmap replay` does."""

    def __call__(self, folder: Path, overwrite: bool) -> None:
        """Write them to a folder; see `Maps.save`."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of one reconstruction, each (z, y, x).

    Only the first three are needed for a comparison with a truth; `mri2qmap.reconstruct` gives all
    of them.

    Attributes
    ----------
    t1, t2
        Relaxation times [s], float32, 0 where there is no object.
    proton_density
        Proton density in arbitrary units: complex64 from a reconstruction, its magnitude (float32)
        where the maps were read from files.
    match_quality
        Normalised inner product of signal and matched atom, 0 to 1, float32; None: not known.
    weighted
        Synthesised magnitude images, float32, by contrast: "T1w", "T2w", "PDw".
    t1_std, t2_std
        Standard deviations of T1 and T2 [s], float32; None unless the pipeline computes them
        (``combined_matching.uncertainty``).
    consistency
        How far the data alone are from the maps with priors, in units of the noise, float32: around
        1 where only noise separates them, 3 and more where data and prior disagree. None unless
        the pipeline computes it (``pnp_admm.consistency``).
    receive_field
        "removed" or "kept": whether proton density and synthesised images are free of the receive
        field or proportional to it (``combined_matching.receive_field``); empty: not known.
    receive_field_map
        The field that was removed, relative to its mean, float32; None unless the pipeline is told
        to make it a map.
    affine
        Voxel indices (x, y, z, 1) to right-anterior-superior coordinates [mm], float64 (4, 4);
        None: not known.
    geometry
        Position and orientation of the volume, in metres and left-posterior-superior coordinates,
        as the gadgets use it; None: not known.
    record
        What `run.json` contains: settings, versions, timings and memory of each gadget, log. Empty
        where the maps were not made by a run.
    """

    t1: NDArray[np.float32]
    t2: NDArray[np.float32]
    proton_density: NDArray[np.complex64] | NDArray[np.float32]
    _: KW_ONLY
    match_quality: NDArray[np.float32] | None = None
    weighted: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    t1_std: NDArray[np.float32] | None = None
    t2_std: NDArray[np.float32] | None = None
    consistency: NDArray[np.float32] | None = None
    receive_field: str = ""
    receive_field_map: NDArray[np.float32] | None = None
    affine: NDArray[np.float64] | None = None
    geometry: Geometry | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    _write: MapWriter | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that the volumes are arrays of one matrix.

        Raises
        ------
        Mri2QmapError
            If they are not.
        """
        needed = {name: getattr(self, name) for name in ("t1", "t2", "proton_density")}
        for name, volume in (needed | self.volumes).items():
            if not isinstance(volume, np.ndarray) or volume.ndim != 3:
                raise Mri2QmapError(
                    f"maps: {name}: an array of three axes (z, y, x) is expected, got "
                    f"{getattr(volume, 'shape', type(volume).__name__)}"
                )
            if volume.shape != self.t1.shape:
                raise Mri2QmapError(
                    f"maps: {name} has the matrix {volume.shape}, t1 {self.t1.shape} (z, y, x); "
                    "all must have one"
                )

    def with_writer(self, write: MapWriter) -> Maps:
        """Return these maps with the function that `save` calls.

        It writes the maps of the run, so the arrays become read-only; a copy with other arrays
        (`dataclasses.replace`) has no such function.
        """
        maps = replace(self)
        object.__setattr__(maps, "_write", write)
        maps._make_read_only()
        return maps

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy or pickle; arrays of a run are read-only as before."""
        self.__dict__.update(state)
        if self._write is not None:
            self._make_read_only()

    def _make_read_only(self) -> None:
        for volume in self.volumes.values():
            volume.setflags(write=False)

    def __repr__(self) -> str:
        """Matrix and names of the volumes, without their values."""
        matrix = " x ".join(str(n) for n in self.t1.shape)
        return f"<Maps {matrix} (z, y, x): {', '.join(self.volumes)}>"

    @property
    def volumes(self) -> dict[str, NDArray[Any]]:
        """All volumes (z, y, x) that there are, by name: maps, then synthesised images."""
        names = (
            "t1", "t2", "proton_density", "match_quality", "t1_std", "t2_std", "consistency",
            "receive_field_map",
        )  # fmt: skip
        maps = {name: getattr(self, name) for name in names}
        return {name: v for name, v in maps.items() if v is not None} | dict(self.weighted)

    @property
    def units(self) -> dict[str, str]:
        """Unit of each of `volumes`."""
        return {name: UNITS[name] for name in self.volumes}

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of each gadget, by name; empty where the maps were not made by a run."""
        return {gadget["name"]: gadget["settings"] for gadget in self.record.get("gadgets", ())}

    @property
    def log(self) -> list[str]:
        """Log lines and warnings of the run, each after its time (UTC)."""
        return list(self.record.get("log", ()))

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write what `mri2qmap replay` writes: dicom/, nifti/, mrd.h5, a report and run.json.

        The forms are those that the settings of the pipeline's `parametric_maps` ask for. The
        folder appears when everything is written; after an error nothing of it stays.

        Parameters
        ----------
        folder
            Folder to make. It may exist if it is empty.
        overwrite
            Replace a folder that contains what this program wrote and nothing else.

        Returns
        -------
            The folder.

        Raises
        ------
        Mri2QmapError
            If the folder exists, contains an input of the run or cannot be written, or if the maps
            were not made by `mri2qmap.reconstruct`.
        """
        if self._write is None:
            raise Mri2QmapError(
                f"output {folder}: these maps were not made by mri2qmap.reconstruct: the scan's "
                "header, which DICOM needs, is not known; save the result of a reconstruction, or "
                "copy the folder that the maps were read from"
            )
        output = as_path(folder, "output")
        self._write(output, overwrite)
        return output

    def plot(self, names: Iterable[str] | None = None) -> Figure:
        """Draw maps in three planes, with units on the colour bars.

        Nothing is shown on the screen: save the figure with ``savefig``, or leave it as the last
        expression of a notebook's cell.

        Parameters
        ----------
        names
            Which of `volumes`; default: T1, T2 and proton density, and standard deviations and
            consistency where there are any.

        Returns
        -------
            A row for each volume, with an axial, a coronal and a sagittal slice through the middle
            of the object.

        Raises
        ------
        Mri2QmapError
            If a name is not known, or matplotlib is not installed.
        """
        from mri2qmap.machine.optional_packages import load_optional

        load_optional("matplotlib", "Maps.plot")
        from mri2qmap.evaluation.map_figure import map_figure

        return map_figure(self.volumes, self.affine, names)
