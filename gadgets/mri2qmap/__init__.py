"""MRI2Qmap: T1, T2 and proton-density maps from 3D MR fingerprinting, as Gadgetron gadgets."""

__version__ = "0.1.0"
