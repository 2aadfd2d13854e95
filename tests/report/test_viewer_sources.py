"""What the viewer is built of: exact versions, from the registry of npm, each with its licence."""

import json
import re
from pathlib import Path

import pytest

from mri2qmap.report.page import LICENCES, VIEWER, built_viewer

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "viewer"
REGISTRY = "https://registry.npmjs.org/"


def test_versions_are_exact_and_those_of_the_lock():
    wanted = json.loads((SOURCES / "package.json").read_text())
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    for name, version in (wanted["dependencies"] | wanted["devDependencies"]).items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert locked[f"node_modules/{name}"]["version"] == version


def test_the_lock_names_no_other_registry_and_a_digest_of_each_package():
    locked = json.loads((SOURCES / "package-lock.json").read_text())["packages"]
    packages = {name: entry for name, entry in locked.items() if name}
    assert packages
    for entry in packages.values():
        assert entry["integrity"].startswith("sha512-")
        assert entry.get("resolved", REGISTRY).startswith(REGISTRY)


def test_the_built_viewer_has_the_licence_of_each_package_and_stays_in_its_element():
    script = built_viewer()
    if script is None:
        pytest.skip("`make viewer` builds the viewer, with npm")
    folder = ROOT / "gadgets/mri2qmap/report"
    licences = (folder / LICENCES).read_text()
    assert re.search(r"^@niivue/niivue [\d.]+ \(BSD-2-Clause\)$", licences, re.MULTILINE)
    assert len(re.findall(r"^-{72}$", licences, re.MULTILINE)) >= 5
    assert "</script" not in script.lower()
    assert "<!--" not in script
    assert (folder / VIEWER).stat().st_size < 4_000_000
