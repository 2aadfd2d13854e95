"""Lets a PyTorch without CUDA switch to `cuda:0`, which does nothing.

PyTorch makes the device of a tensor the current one before it indexes it, and asks for the current
one when a name has no number ("cuda"). Builds for CUDA have `_ensureCUDADeviceGuardSet` for
machines without a GPU. Builds for the CPU have no object at all for these questions. Here they get
a copy of that of the device "meta", which does nothing, with the answers "cuda" and "cuda:0".
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

_CUDA, _META = 1, 14
"""Numbers of the devices in PyTorch (`c10/core/DeviceType.h`)."""
_REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
_METHODS = 32
"""More than `DeviceGuardImplInterface` has; those in front are `type`, `exchangeDevice` and
`getDevice`."""

_DEVICE = ctypes.c_uint16
"""Number of the kind of device, and in the upper byte that of the device."""
_Type = ctypes.CFUNCTYPE(ctypes.c_int8, ctypes.c_void_p)
_Exchange = ctypes.CFUNCTYPE(_DEVICE, ctypes.c_void_p, _DEVICE)
_Get = ctypes.CFUNCTYPE(_DEVICE, ctypes.c_void_p)

_kept: list[object] = []
"""What C++ has addresses of."""


def switch_to_nothing() -> None:
    """Register the object, if there is none for CUDA.

    Raises
    ------
    RuntimeError
        If this build of PyTorch is arranged otherwise.
    """
    if torch.version.cuda is not None:
        torch._C._ensureCUDADeviceGuardSet()
        return
    if not sys.platform.startswith("linux"):
        raise RuntimeError("the pretend GPU needs the symbols of PyTorch for Linux")
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * (_META + 1)).in_dll(library, _REGISTRY)
    if registry[_CUDA]:
        return
    table = ctypes.cast(registry[_META], ctypes.POINTER(ctypes.c_void_p))[0]
    methods = (ctypes.c_void_p * _METHODS).from_address(table)
    if _Type(methods[0])(registry[_META]) != _META:
        raise RuntimeError("this PyTorch has another order of devices or methods")
    answers = (
        _Type(lambda this: _CUDA),
        _Exchange(lambda this, device: _CUDA),
        _Get(lambda this: _CUDA),
    )
    own = (ctypes.c_void_p * _METHODS)(*methods)
    for number, answer in enumerate(answers):
        own[number] = ctypes.cast(answer, ctypes.c_void_p).value
    switch = ctypes.pointer(ctypes.c_void_p(ctypes.addressof(own)))
    _kept.extend((answers, own, switch))
    registry[_CUDA] = ctypes.cast(switch, ctypes.c_void_p).value
