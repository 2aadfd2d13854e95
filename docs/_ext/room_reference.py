"""Reference of the Python modules: one page for each package, one section for each module."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

from markup import escaped, heading, indented

import mri2qmap

FORMER = ("stream",)
"""Packages that only keep names of earlier versions."""
TOP = "top"
"""Stands for the modules directly below `mri2qmap`: the gadgets and what they share."""


def rooms() -> list[str]:
    """Names that `room_reference` takes: all packages below `mri2qmap`, and `TOP`."""
    packages = [
        info.name
        for info in pkgutil.iter_modules(mri2qmap.__path__)
        if info.ispkg and not info.name.startswith("_") and info.name not in FORMER
    ]
    return [TOP, *(room for room in packages if modules_in(room))]


def modules_in(room: str) -> list[str]:
    """Full names of the public modules of a package, by name."""
    package = _package(room)
    find = pkgutil.iter_modules if room == TOP else pkgutil.walk_packages
    return sorted(
        info.name
        for info in find(package.__path__, f"{package.__name__}.")
        if not info.ispkg and not info.name.rpartition(".")[2].startswith("_")
    )


def _package(room: str) -> ModuleType:
    return mri2qmap if room == TOP else importlib.import_module(f"mri2qmap.{room}")


def room_reference(room: str) -> str:
    """The sections of a package: its docstring, then its modules."""
    package = _package(room)
    parts = []
    if room != TOP:
        parts += [f".. py:module:: {package.__name__}\n", f"{inspect.getdoc(package) or ''}\n"]
    for name in modules_in(room):
        parts.append(heading(escaped(name.removeprefix("mri2qmap."))))
        parts.append(f".. automodule:: {name}\n   :members:\n   :show-inheritance:\n")
    return "\n".join(parts)


def public_reference() -> str:
    """The names that `import mri2qmap` offers."""
    parts = [".. py:module:: mri2qmap\n", inspect.getdoc(mri2qmap) or "", ""]
    for name in getattr(mri2qmap, "__all__", ()):
        thing = getattr(mri2qmap, name)
        if name.startswith("__"):
            continue
        directive = "autodata"
        options = ""
        if inspect.isclass(thing):
            directive, options = "autoclass", ":members:\n"
        elif callable(thing):
            directive = "autofunction"
        parts.append(f".. {directive}:: mri2qmap.{name}\n{indented(options)}")
    return "\n".join(parts)
