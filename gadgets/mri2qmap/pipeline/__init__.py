"""Items, settings, pipeline files, scan headers and checks of the acquisitions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.pipeline.acquisition_checks import checked_acquisitions
    from mri2qmap.pipeline.acquisition_policy import AcquisitionPolicy
    from mri2qmap.pipeline.geometry import Geometry
    from mri2qmap.pipeline.item_flow import ItemFlow
    from mri2qmap.pipeline.items import (
        AdjointTsmi,
        CoilMaps,
        Consistency,
        DicomObject,
        Item,
        NiftiVolume,
        ParameterMaps,
        Provenance,
        ToeplitzKernels,
        Tsmi,
        WeightedImages,
    )
    from mri2qmap.pipeline.pipeline_file import (
        GadgetNode,
        Pipeline,
        load_gadget,
        parse_pipeline,
        pipeline_document,
        read_pipeline,
    )
    from mri2qmap.pipeline.progress import Reporter, TerminalReporter
    from mri2qmap.pipeline.scan_header import ScanInfo
    from mri2qmap.pipeline.scan_profile import ScanProfile
    from mri2qmap.pipeline.scan_profile_files import load_scan_profile, shipped_scan_profiles
    from mri2qmap.pipeline.scan_profile_suggestions import (
        ScanProfileSuggestion,
        suggest_scan_profile,
    )

__all__ = [
    "AcquisitionPolicy",
    "AdjointTsmi",
    "CoilMaps",
    "Consistency",
    "DicomObject",
    "GadgetNode",
    "Geometry",
    "Item",
    "ItemFlow",
    "NiftiVolume",
    "ParameterMaps",
    "Pipeline",
    "Provenance",
    "Reporter",
    "ScanInfo",
    "ScanProfile",
    "ScanProfileSuggestion",
    "TerminalReporter",
    "ToeplitzKernels",
    "Tsmi",
    "WeightedImages",
    "checked_acquisitions",
    "load_gadget",
    "load_scan_profile",
    "parse_pipeline",
    "pipeline_document",
    "read_pipeline",
    "shipped_scan_profiles",
    "suggest_scan_profile",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "AcquisitionPolicy": "acquisition_policy",
        "AdjointTsmi": "items",
        "CoilMaps": "items",
        "Consistency": "items",
        "DicomObject": "items",
        "GadgetNode": "pipeline_file",
        "Geometry": "geometry",
        "Item": "items",
        "ItemFlow": "item_flow",
        "NiftiVolume": "items",
        "ParameterMaps": "items",
        "Pipeline": "pipeline_file",
        "Provenance": "items",
        "Reporter": "progress",
        "ScanInfo": "scan_header",
        "ScanProfile": "scan_profile",
        "ScanProfileSuggestion": "scan_profile_suggestions",
        "TerminalReporter": "progress",
        "ToeplitzKernels": "items",
        "Tsmi": "items",
        "WeightedImages": "items",
        "checked_acquisitions": "acquisition_checks",
        "load_gadget": "pipeline_file",
        "load_scan_profile": "scan_profile_files",
        "parse_pipeline": "pipeline_file",
        "pipeline_document": "pipeline_file",
        "read_pipeline": "pipeline_file",
        "shipped_scan_profiles": "scan_profile_files",
        "suggest_scan_profile": "scan_profile_suggestions",
    },
)
