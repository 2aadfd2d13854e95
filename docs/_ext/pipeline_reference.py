"""Reference of the pipeline files: what they are for, and their resolved settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from markup import escaped, heading, indented, literal, table
from settings_reference import value_in_words

from mri2qmap.pipeline.pipeline_file import GADGETS, Pipeline, load_gadget, read_pipeline
from mri2qmap.pipeline.scan_profile_files import shipped_file, shipped_scan_profiles

_COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)


def pipeline_files() -> list[Path]:
    """Pipeline files of the project, by name."""
    return sorted((Path(__file__).parents[2] / "pipelines").glob("*.xml"))


def description_in(document: str) -> str:
    """First comment of a pipeline file, as one paragraph."""
    found = _COMMENT.search(document)
    return " ".join(found[1].split()) if found else ""


def changed_settings(pipeline: Pipeline) -> list[tuple[str, str, str, str]]:
    """Gadget, name, value and default of the settings that differ from their defaults."""
    return [
        (node.name, field.name, value, default)
        for node in pipeline.nodes
        for field in dataclasses.fields(node.settings)
        if (value := value_in_words(getattr(node.settings, field.name)))
        != (default := value_in_words(field.default))
    ]


def scan_profiles_reference() -> str:
    """A section with each scan profile of the package, as it is written."""
    sections = []
    for name in shipped_scan_profiles():
        path = shipped_file(name)
        if path is not None:
            content = indented(path.read_text(encoding="utf-8"))
            sections.append(
                f".. _scan-profile-{name}:\n\n{heading(name)}\n.. code-block:: toml\n\n{content}\n"
            )
    return "\n".join(sections)


def pipelines_reference() -> str:
    """A section for each pipeline file: purpose, gadgets, settings that differ from defaults."""
    sections = []
    for path in pipeline_files():
        pipeline = read_pipeline(path)
        gadgets = ", ".join(f":ref:`{node.name} <gadget-{node.name}>`" for node in pipeline.nodes)
        rows = [
            (f":ref:`{gadget}.{name} <setting-{gadget}-{name}>`", literal(value), literal(default))
            for gadget, name, value, default in changed_settings(pipeline)
        ]
        changed = "All settings have their defaults.\n"
        if rows:
            changed = table(("setting", "value here", "default"), rows, css_class="narrow")
        sections.append(
            f".. _pipeline-{path.stem}:\n\n{heading(path.stem)}\n"
            f"{escaped(description_in(path.read_text(encoding='utf-8')))}\n\n"
            f"Gadgets: {gadgets}.\n\n{changed}"
        )
    return "\n".join(sections)


def resolved_settings() -> str:
    """A table for each gadget: its settings, and their values in each pipeline."""
    pipelines = [read_pipeline(path) for path in pipeline_files()]
    sections = []
    for gadget in GADGETS:
        settings = {
            pipeline.name: node.settings
            for pipeline in pipelines
            for node in pipeline.nodes
            if node.name == gadget
        }
        rows = [
            (
                f":ref:`{field.name} <setting-{gadget}-{field.name}>`",
                *(_cell(chosen, field) for chosen in settings.values()),
            )
            for field in dataclasses.fields(load_gadget(gadget)[1])
        ]
        sections.append(
            f"{heading(gadget)}\n.. container:: wide\n\n"
            + indented(table(("setting", *map(escaped, settings)), rows, css_class="matrix"))
        )
    return "\n".join(sections)


def _cell(settings: Any, field: dataclasses.Field[Any]) -> str:
    """Value of a setting; bold where it differs from the default."""
    value = value_in_words(getattr(settings, field.name))
    text = escaped(value) if value else '""'
    return text if value == value_in_words(field.default) else f"**{text}**"
