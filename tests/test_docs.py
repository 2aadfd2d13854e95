"""The documentation site builds without a warning, and its reference pages hold the program."""

import argparse
import ast
import dataclasses
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

for package in ("sphinx", "furo", "myst_nb", "sphinx_copybutton"):
    pytest.importorskip(
        package, reason=f"{package} is missing; pip install 'mri2qmap[docs]' installs it"
    )
sys.path.append(str(DOCS / "_ext"))

import links  # noqa: E402
import mathml  # noqa: E402
from command_reference import command_reference, subcommands  # noqa: E402
from error_reference import REMEDIES, error_messages, error_reference  # noqa: E402
from markup import with_single_names, without_substitutions  # noqa: E402
from pipeline_reference import changed_settings, pipeline_files  # noqa: E402
from room_reference import modules_in, rooms  # noqa: E402
from settings_reference import (  # noqa: E402
    attributes_in,
    settings_of,
    settings_table,
    type_in_words,
)
from sphinx.util.inventory import InventoryFile  # noqa: E402

from mri2qmap.cli.main import COMMANDS, build_parser  # noqa: E402
from mri2qmap.hosts import run_record, stage_timing  # noqa: E402
from mri2qmap.pipeline import scan_record  # noqa: E402
from mri2qmap.pipeline.pipeline_file import GADGETS, load_gadget, read_pipeline  # noqa: E402
from mri2qmap.recon.iteration_statistics import IterationStatistics  # noqa: E402

# A build takes a minute of one free core.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Result of the build, and the folder of the pages."""
    folder = tmp_path_factory.mktemp("docs")
    options = ["-b", "html", "-W", "--keep-going", "-q", "-d", str(folder / "trees")]
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return result, folder / "html"


@pytest.fixture(scope="module")
def site(built):
    return built[1]


@pytest.mark.slow
def test_builds_without_a_warning(built):
    result, _ = built
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_every_module_is_documented(site):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    documented = set(inventory.data["py:module"])
    assert {name for room in rooms() for name in modules_in(room)} <= documented


@pytest.mark.slow
def test_public_names_are_documented(site):
    import mri2qmap

    text = (site / "reference" / "python.html").read_text()
    public = [n for n in getattr(mri2qmap, "__all__", ()) if not n.startswith("__")]
    assert [name for name in public if f'id="mri2qmap.{name}"' not in text] == []


@pytest.mark.slow
def test_every_setting_is_a_row_of_its_gadget(site):
    text = (site / "reference" / "gadgets.html").read_text()
    for gadget in GADGETS:
        for setting in settings_of(load_gadget(gadget)[1]):
            assert f'id="setting-{gadget}-{setting.name}"'.replace("_", "-") in text


@pytest.mark.slow
def test_every_pipeline_and_command_has_a_section(site):
    text = (site / "reference" / "pipelines.html").read_text()
    for path in pipeline_files():
        assert f'id="pipeline-{path.stem}"'.replace("_", "-") in text
    text = (site / "reference" / "command_line.html").read_text()
    for name in COMMANDS:
        assert f'id="command-mri2qmap-{name}"' in text


@pytest.mark.slow
def test_the_notebook_is_a_page(site):
    assert "mri2qmap.reconstruct" in re.sub("<[^>]+>", "", (site / "tutorial.html").read_text())


@pytest.mark.slow
def test_pages_need_no_network(site):
    loaded = re.compile(r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]+)"')
    for page in site.rglob("*.html"):
        assert loaded.findall(page.read_text()) == [], page


def test_every_error_message_says_what_to_do_or_the_page_does():
    messages = error_messages()
    assert len(messages) > 500
    assert [message for message in messages if not message.explained] == []
    used = {message.remedy for message in messages}
    assert [words for words in REMEDIES.values() if words not in used] == []


def test_error_messages_name_what_is_filled_in():
    texts = {message.text.replace("\0", "|") for message in error_messages()}
    assert "this scan has a node |gadget| already; use each gadget once in a chain" in texts
    assert "more than 1000 images of items arrived within the scan" in texts  # a constant
    page = error_reference()
    assert "this scan has a node \\ *gadget*\\  already" in page
    assert "\0" not in page


def string_keys(source):
    """Keys of all dictionaries that are written out in a source text."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        if isinstance(node, ast.Dict):
            found |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return {key for key in found if isinstance(key, str)}


def test_every_key_of_the_run_record_is_explained():
    functions = (
        run_record.run_record,
        run_record.remote_record,
        scan_record.scan_record,
        run_record.latencies,
        run_record.input_record,
        stage_timing.StageTiming.as_dict,
    )
    keys = set().union(*(string_keys(inspect.getsource(function)) for function in functions))
    for kind in (stage_timing.NodeTiming, IterationStatistics):
        keys |= {field.name for field in dataclasses.fields(kind)}
    keys |= {"written", "not_written", "files"}
    page = (DOCS / "reference" / "output.md").read_text()
    assert sorted(key for key in keys if f"`{key}`" not in page) == []


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 120
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


@dataclasses.dataclass(frozen=True)
class Base:
    """Settings that are shared.

    Attributes
    ----------
    step, level
        Two numbers,
        of a kind.
    kind
        As the base has it.
    """

    step: float = 0.5
    level: float = 1e-5
    kind: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """Settings of a gadget.

    Attributes
    ----------
    kind
        As the subclass has it, of |x|.
    names
        Words.

    Raises
    ------
    ValueError
        Never.
    """

    names: tuple[str, ...] = ()
    switch: bool = False


def test_settings_come_from_fields_and_docstrings_with_those_of_the_bases():
    found = {setting.name: setting for setting in settings_of(Derived)}
    assert list(found) == ["step", "level", "kind", "names", "switch"]
    assert found["step"].meaning == found["level"].meaning == "Two numbers,\nof a kind."
    assert found["step"].origin is Base
    assert (found["level"].type, found["level"].default) == ("number", "1e-05")
    assert (found["kind"].meaning, found["kind"].type) == (
        "As the subclass has it, of |x|.",
        "a | b",
    )
    assert (found["names"].type, found["names"].default) == ("list, each text", "")
    assert found["switch"].meaning == ""


def test_a_setting_without_a_description_is_refused():
    with pytest.raises(ValueError, match=r"Derived\.switch of gadget thing has no description"):
        settings_table("thing", Derived)


def test_other_sections_are_no_attributes():
    assert list(attributes_in(Derived.__doc__)) == ["kind", "names"]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (bool, "true | false"),
        (int | None, "integer or none"),
        (tuple[float, float], "2 values, each number"),
        (Path, "file"),
    ],
)
def test_types_in_words(annotation, words):
    assert type_in_words(annotation) == words


def test_changed_settings_are_those_that_differ_from_the_defaults():
    pipeline = read_pipeline("svdmrf")
    changed = {(gadget, name): value for gadget, name, value, _ in changed_settings(pipeline)}
    assert changed["subspace_compression", "output"] == "gridded"
    assert ("subspace_compression", "coefficients") not in changed


def test_commands_are_described_with_their_options():
    parser = argparse.ArgumentParser(prog="tool", description="Do it.\n\nlist:\n  one *\n")
    child = parser.add_subparsers().add_parser("run", epilog="example:\n  tool run X\n")
    child.add_argument("scan", metavar="SCAN", help="what to read")
    child.add_argument("-n", "--count", type=int, default=3, help="how many (default: %(default)s)")
    child.add_argument("--mode", choices=("a", "b"), required=True, help="of |x|")
    child.add_argument("--secret", help=argparse.SUPPRESS)
    text = command_reference(parser)
    assert "List:\n\n\n.. code-block:: console\n\n   one *" in text
    assert ".. option:: SCAN\n\n   what to read\n" in text
    assert ".. option:: -n COUNT, --count COUNT\n\n   how many (default: 3)\n" in text
    assert ".. option:: --mode {a,b}\n\n   of \\|x\\| (required)\n" in text
    assert "secret" not in text
    assert set(subcommands(build_parser())) == set(COMMANDS)


@pytest.mark.parametrize(
    ("target", "folder", "expected"),
    [
        ("../models/small.md", "docs", "/models/small.md"),
        ("small.md", "models", "/models/small.md"),
        ("../docs/experiments.md", "models", "/experiments.md"),
        ("../experiments.md", "docs/explanation", "/experiments.md"),
        ("../gadgets/x.py", "docs", "../gadgets/x.py"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(target, folder, expected):
    assert links.page_link(target, folder) == expected


def test_only_relative_links_are_rewritten():
    text = "[a](../models/small.md#data) [b](https://x.org/a.md) [c](#here) [d](/e.md)"
    assert links.rewritten(text, "docs") == text.replace("../models", "/models")


def test_names_are_looked_up_from_the_module_outwards():
    known = {"p.a.match", "p.b.match", "p.gadget", "p.gadget.gadget", "p.a.K", "p.a.K.run"}
    assert links.find_name(known, "match", "p.b") == "p.b.match"
    assert links.find_name(known, "match", "p.c") is None
    assert links.find_name(known, "run", "p.a", "K") == "p.a.K.run"
    assert links.find_name(known, "K.run", "p.c") == "p.a.K.run"
    assert links.find_name(known, "gadget", "p.c") == "p.gadget.gadget"
    assert links.find_name(known, "atch", "p.c") is None


def test_bars_are_plain_characters_except_in_code_and_equations():
    lines = [
        "of |PD| and `a|b`",
        "",
        "    .. math::",
        "",
        "        |x|",
        "",
        "|y|",
        "::",
        "",
        "  |z|",
    ]
    expected = lines.copy()
    expected[0], expected[6] = "of \\|PD\\| and `a|b`", "\\|y\\|"
    assert without_substitutions(lines) == expected


def test_attributes_that_share_a_description_become_entries_of_their_own():
    lines = ["Two, three", "", "Attributes", "----------", "a, b", "    One.", "", "c", "    Two."]
    lines += ["", "Raises", "------", "d, e", "    Three."]
    expected = [*lines[:4], "a", "    One.", "", "b", "    One.", "", *lines[7:]]
    assert with_single_names(lines) == expected


def test_equations_become_mathml():
    half = mathml.mathml(r"\tfrac12 x")
    assert re.search(r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>", half)
    with pytest.raises(mathml.MathError):
        mathml.mathml(r"\nosuchcommand x")
