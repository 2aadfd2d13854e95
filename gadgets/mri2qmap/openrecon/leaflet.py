"""The PDF document of an OpenRecon package, made from its label."""

from __future__ import annotations

from collections.abc import Iterator

from mri2qmap.openrecon.label import Label
from mri2qmap.openrecon.parameters import Choice, DecimalNumber, Parameter, WholeNumber
from mri2qmap.openrecon.text_pdf import Paragraph, text_pdf
from mri2qmap.pipeline.settings import property_text

_RESULTS = """\
The image receives the raw data of a 3D MR fingerprinting scan with trajectories, and sends one 2D \
image of unsigned 16-bit integers per slice and map: T1 and T2 [ms], proton density, quality of \
the match, and what is chosen below. The resolution is that of the scan and cannot be chosen.
A text that begins with ERR says why there are no maps."""
_NEEDS = """\
Gradients, trajectories and the sequence must be described in the scan as the documentation of \
the software says; a scan that is not is refused, with what is missing."""


def leaflet(label: Label) -> bytes:
    """Return the PDF file."""
    return text_pdf(f"{label.general.name} {label.general.version}", _paragraphs(label))


def _paragraphs(label: Label) -> Iterator[Paragraph]:
    general, needs = label.general, label.reconstruction
    yield Paragraph(general.name, heading=True, size=16)
    yield Paragraph(f"Version {general.version}, {general.vendor}")
    yield Paragraph("")
    yield Paragraph(general.information)
    yield Paragraph("Results", heading=True, size=12)
    yield Paragraph(_RESULTS)
    yield Paragraph(_NEEDS)
    yield Paragraph("Requirements", heading=True, size=12)
    yield Paragraph(f"Memory: {needs.min_required_memory} MB")
    yield Paragraph(f"CPU cores: {needs.min_count_required_cpu_cores}")
    yield Paragraph(f"GPU: {_gpu(label)}")
    yield Paragraph(f"Port: {needs.port}")
    yield Paragraph("Parameters", heading=True, size=12)
    for parameter in label.parameters:
        yield Paragraph(f"{parameter.label} ({parameter.id})", heading=True)
        yield Paragraph(parameter.information)
        yield Paragraph(_values(parameter))
    yield Paragraph("Regulatory information", heading=True, size=12)
    for name, text in label.document()["general"]["regulatory_information"].items():
        yield Paragraph(f"{name.replace('_', ' ').capitalize()}: {text or 'none'}", indent=4)


def _gpu(label: Label) -> str:
    needs = label.reconstruction
    if not needs.can_use_gpu:
        return "not used"
    if not needs.min_count_required_gpus:
        return f"used if there is one of {needs.min_required_gpu_memory} MB"
    return f"{needs.min_count_required_gpus} of {needs.min_required_gpu_memory} MB"


def _values(parameter: Parameter) -> str:
    initial = property_text(parameter.initial) or "empty"
    if isinstance(parameter, Choice):
        shown = dict(parameter.values)
        return f"One of {', '.join(shown.values())}. Default: {shown[parameter.initial]}"
    if isinstance(parameter, WholeNumber | DecimalNumber):
        unit = f" {parameter.unit}" if parameter.unit else ""
        return f"{parameter.minimum:g} to {parameter.maximum:g}{unit}. Default: {initial}{unit}"
    return f"Default: {initial}"
