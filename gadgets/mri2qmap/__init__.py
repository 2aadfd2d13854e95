"""MRI2Qmap: T1, T2 and proton-density maps from 3D MR fingerprinting, as Gadgetron gadgets."""

__version__ = "0.1.0"

from mri2qmap.machine.process_setup import prepare_process

prepare_process()  # before PyTorch and numba are imported: they read environment variables then
