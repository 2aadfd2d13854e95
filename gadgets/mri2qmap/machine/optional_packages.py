"""Packages that only some uses need, and the extra that installs each of them."""

from __future__ import annotations

import importlib
from types import ModuleType

from mri2qmap.errors import Mri2QmapError
from mri2qmap.machine.gpu_packages import cupy_distribution, gpu_extra

EXTRAS = {
    "matplotlib": ("matplotlib", "demo"),
    "nilearn": ("nilearn", "demo"),
    "skimage": ("scikit-image", "studies"),
    "bm4d": ("bm4d", "bm4d"),
    "monai": ("monai", "train"),
    "yaml": ("PyYAML", "train"),
    "dask": ("dask", "cohort"),
    "distributed": ("distributed", "cohort"),
    "cryptography": ("cryptography", "cohort"),
    "pynetdicom": ("pynetdicom", "pacs"),
    "dicomweb_client": ("dicomweb-client", "pacs"),
    "cufinufft": ("cufinufft", "gpu"),
    "cupy": ("cupy-cuda12x", "gpu"),
}
"""By module: the distribution that contains it, and the extra of pyproject.toml."""


def missing_package(module: str, purpose: str = "") -> str:
    """Return the message about an optional package that is not installed.

    Parameters
    ----------
    module
        Name of the module, a key of `EXTRAS`.
    purpose
        What needs it, for example ``"plotting"``; empty: not stated.
    """
    package, extra = EXTRAS[module]
    if module == "cupy":
        package, extra = cupy_distribution(), gpu_extra()
    return (
        f"{f'{purpose} needs ' if purpose else ''}{package}{', which' if purpose else ''} is not "
        f"installed; it is part of the extra {extra!r}: pip install 'mri2qmap[{extra}]'"
    )


def load_optional(module: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Parameters
    ----------
    module
        Name of the module, which may be a submodule: ``"matplotlib.figure"``.
    purpose
        What needs it, for the message.

    Raises
    ------
    Mri2QmapError
        If the package is not installed; the message names the extra that installs it.
    """
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise  # installed, but one of its own requirements is not
        raise Mri2QmapError(missing_package(name, purpose)) from error
