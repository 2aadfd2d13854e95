"""The package for OpenRecon and FIRE hosts: its label, what an operator may choose, its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mri2qmap.machine.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mri2qmap.openrecon.label import Label
    from mri2qmap.openrecon.label_rules import refuse_broken_label
    from mri2qmap.openrecon.offers import offered_parameters
    from mri2qmap.openrecon.package import package_label, write_package
    from mri2qmap.openrecon.parameters import Parameter

__all__ = [
    "Label",
    "Parameter",
    "offered_parameters",
    "package_label",
    "refuse_broken_label",
    "write_package",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Label": "label",
        "Parameter": "parameters",
        "offered_parameters": "offers",
        "package_label": "package",
        "refuse_broken_label": "label_rules",
        "write_package": "package",
    },
)
