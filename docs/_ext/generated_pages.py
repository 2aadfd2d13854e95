"""Directives whose content is generated from the program: no page can lag behind the code."""

from __future__ import annotations

from typing import Any

from command_reference import command_reference
from docutils import nodes
from error_reference import error_reference
from markup import with_single_names, without_substitutions
from pipeline_reference import (
    pipelines_reference,
    resolved_settings,
    scan_profiles_reference,
)
from room_reference import public_reference, room_reference
from settings_reference import settings_table
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mri2qmap.cli.main import build_parser
from mri2qmap.pipeline.pipeline_file import load_gadget
from mri2qmap.pipeline.scan_profile import ScanProfile


class GeneratedDirective(SphinxDirective):
    """Content that is reStructuredText made by `text`."""

    def text(self) -> str:
        """Return the content."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the content in place of the directive."""
        return self.parse_text_to_nodes(self.text(), allow_section_headings=True)


class GadgetSettings(GeneratedDirective):
    """``.. gadget-settings:: GADGET``: table of the settings."""

    required_arguments = 1

    def text(self) -> str:
        """See `settings_table`."""
        return settings_table(self.arguments[0], load_gadget(self.arguments[0])[1])


class ScanProfileKeys(GeneratedDirective):
    """``.. scan-profile-keys::``: table of the keys."""

    def text(self) -> str:
        """See `settings_table`."""
        return settings_table("scan", ScanProfile)


class ScanProfiles(GeneratedDirective):
    """``.. scan-profiles::``: the files of the package."""

    def text(self) -> str:
        """See `scan_profiles_reference`."""
        return scan_profiles_reference()


class Pipelines(GeneratedDirective):
    """``.. pipelines::``: a section for each file."""

    def text(self) -> str:
        """See `pipelines_reference`."""
        return pipelines_reference()


class ResolvedSettings(GeneratedDirective):
    """``.. resolved-settings::``: all settings in all pipelines."""

    def text(self) -> str:
        """See `resolved_settings`."""
        return resolved_settings()


class CommandLine(GeneratedDirective):
    """``.. command-line::``: all commands and options."""

    def text(self) -> str:
        """See `command_reference`."""
        return command_reference(build_parser())


class Room(GeneratedDirective):
    """``.. room:: NAME``: the modules of a package."""

    required_arguments = 1

    def text(self) -> str:
        """See `room_reference`."""
        return room_reference(self.arguments[0])


class ErrorMessages(GeneratedDirective):
    """``.. error-messages::``: all messages, and what to do."""

    def text(self) -> str:
        """See `error_reference`."""
        return error_reference()


class PublicNames(GeneratedDirective):
    """``.. public-names::``: what `import mri2qmap` offers."""

    def text(self) -> str:
        """See `public_reference`."""
        return public_reference()


def escape_bars(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Process a docstring, see `without_substitutions`."""
    lines[:] = without_substitutions(lines)


def prepare_for_napoleon(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Process a docstring before napoleon does.

    Napoleon takes what stands before a colon in the first line of a property for its type, and
    joins names that share a description.
    """
    lines[:] = with_single_names(lines)
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.connect("autodoc-process-docstring", prepare_for_napoleon, priority=400)
    app.connect("autodoc-process-docstring", escape_bars, priority=600)
    app.add_directive("gadget-settings", GadgetSettings)
    app.add_directive("scan-profile-keys", ScanProfileKeys)
    app.add_directive("scan-profiles", ScanProfiles)
    app.add_directive("pipelines", Pipelines)
    app.add_directive("resolved-settings", ResolvedSettings)
    app.add_directive("command-line", CommandLine)
    app.add_directive("error-messages", ErrorMessages)
    app.add_directive("room", Room)
    app.add_directive("public-names", PublicNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
