"""Reference of the error messages: what is wrong, and what to do, read from the source."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from markup import escaped, heading, indented

import mri2qmap
from mri2qmap.pipeline.findings import Finding, scan_error

_ERRORS = ("Mri2QmapError", "GadgetError", "PeerError", "ProtocolError")
"""Errors whose messages are for users."""
_FINDINGS = (scan_error.__name__, Finding.__name__)
_PARTS = ("code", "where", "what", "why", "advice", "level")
"""Their arguments."""
_AREAS = {
    "cli": "Command line",
    "api": "Python functions",
    "files": "Scan files and other input files",
    "pipeline": "Header, acquisitions, pipelines, settings and memory",
    "gadgets": "Gadgets",
    "recon": "Reconstruction",
    "operators": "Operators",
    "mrsignal": "Signal model and dictionary",
    "pulseq": "Pulseq files",
    "denoiser": "Denoiser",
    "openrecon": "OpenRecon package, and parameters of hosts",
    "hosts": "Servers, workers and clients",
    "export": "Maps in DICOM, NIfTI and MRD, and maps from a server",
    "report": "Report",
    "scan_queue": "Queue of scans",
    "pacs": "Sending to a PACS",
    "cohort": "Cohorts",
    "storage": "Output folders and files",
    "machine": "This machine",
    "anatomy": "Anatomies for simulated scans",
    "simulation": "Simulated scans",
    "evaluation": "Evaluation",
    "training": "Training and recordings",
    "studies": "Experiments and benchmarks",
}
"""Titles of the packages, in the order of the page."""
REMEDIES = {
    r"cannot be read|cannot be followed|cannot be listed|no such file|is not a folder": (
        "Check the path, that this user may read it, and that the file is whole and of the kind "
        "that is named. The words in brackets are those of the system or of the library."
    ),
    r"cannot be written|writing failed|training into|its truth failed": (
        "Free some space, or choose a folder that this user may write to."
    ),
    r"is damaged|was truncated|at byte": "Copy or export the file again.",
    r"this is not TOML|no array of numbers|something else than numbers": (
        "Correct the file; :doc:`scan_profiles` has the form."
    ),
    r"cannot be decoded|not readable XML|not well-formed XML|nested deeper": (
        "Have the program that wrote it checked: it is no valid document."
    ),
    r"not finite|is zero everywhere|is 0 everywhere|are zero|negative values|no finite": (
        "Look at the input: values are missing in it, or it was written by a step that failed."
    ),
    r" is for | are for | not for | needs? |leave out|is set on the server": (
        "``mri2qmap COMMAND --help`` lists which options belong together."
    ),
    r"given twice|named twice|given too": "Give it once.",
    r"have the same name|outside the output folder": (
        "A gadget that is not of this program names its files so: correct it."
    ),
    r"process .{0,20}(not in step|has lost)|the folder for unfinished files": (
        "All processes need the same files, settings and versions; start all of them again."
    ),
    r"affine|three spatial axes|its grid is not|field of view contains nothing|no brain tissue": (
        "Check the geometry of the NIfTI file in a viewer; save it again on the right grid."
    ),
    r"contains no|nothing of it is in|no label of the brain|no such folder|not usable": (
        "Check that the right folder or file is named."
    ),
    r"the server|no item arrived|the stream ended|images of items|of an item of type": (
        "Look into the log of the server or worker: the first error there is the cause."
    ),
    r"is missing|are missing|lacks|does not have|no coil maps|no imaging acquisition|no gadgets": (
        "The scan or pipeline is not complete: export it again, or compare the pipeline with a "
        "shipped one."
    ),
    r"readout group|has no samples|has more than|channels, but|has the size|differ": (
        "Header and data do not belong together: check which scan the file holds, and how it was "
        "converted."
    ),
    r"another program wrote|another run wrote|somebody changed": (
        "Nothing is lost: both versions are kept. Remove the one that is not wanted."
    ),
    r"training config|a network for|no denoiser|do not form a valid network": (
        "Correct the configuration of the training, or name another checkpoint."
    ),
    r"bench": "The last line is that of the program that failed; run it alone to see more.",
    r"own node of this gadget": (
        "A node that belongs to no scan was refused; the scan with this header goes on. Look at "
        "which program sent it, and use each gadget once in a chain."
    ),
    r"switch off all": "Leave at least one of its outputs on, or remove the gadget.",
    r"one <configuration>|settings cannot be changed": (
        "Compare the pipeline with a shipped one, see :doc:`pipelines`."
    ),
    r"TLS|certificate": (
        "Check the certificates and the key, that the peer's name is in its certificate, and the "
        "clocks of both."
    ),
    r"the peer|no answer|no connection|another process has been sending": (
        "What is not sent stays in the spool: look at the peer, its address and AE titles, then "
        "run ``mri2qmap push`` again. See :doc:`../pacs`."
    ),
    r"field of view|waveforms|no scan and no groups|no groups|unknown data type|identifier": (
        "The file or the program that sends it does not follow ISMRMRD: check how it was "
        "converted, see :doc:`../data`."
    ),
    r"is less than": "Use an image with more voxels, or a smaller patch.",
    r"unknown encoding": "Save the document as UTF-8.",
}
"""What to do after a message that does not say it itself: the first pattern that fits."""
_SAYS_IT = re.compile(
    r"; |known: |dask worker|: (try|use|send|install|start|set|give|name|see|check|say|choose)\b"
    r"|: (write|end|copy|is it)\b"
    r"|: (remove|raise|select)\b"
    r"|\. [A-Z]|expected|must |at most|at least|\btry |choose|known are|are known|are supported"
    r"|may only|may name|or wait longer|is not supported|\bonly\b|is needed|takes one"
)
"""Words of messages that say themselves what to do, or what is right."""

_RELAYED = re.compile(
    r"([\w.,:<> -]|\0[^\0]*\0)*: \0(error|reason|text|unknown name|candidate|path)\0|(\0[^\0]*\0)+"
    r"|--(server )?\0error\0|--listen \0listen\0: \0value\0"
    r"|(\0[^\0]*\0: )+\0error\0 \(given: \0value\0\)"
)
"""What only puts a place before another message, which the page has."""


@dataclass(frozen=True)
class ErrorMessage:
    """A message in the source.

    Attributes
    ----------
    module
        Where it is.
    text
        Its words, with the names of what is filled in.
    advises
        Whether a part of it is advice.
    """

    module: str
    text: str
    advises: bool = False

    @property
    def remedy(self) -> str:
        """What to do; empty if the message itself says it."""
        if self._says_it:
            return ""
        plain = self.text.replace("\0", "")
        return next((words for pattern, words in REMEDIES.items() if re.search(pattern, plain)), "")

    @property
    def explained(self) -> bool:
        """Whether it is said what to do."""
        return bool(self._says_it or self.remedy)

    @property
    def _says_it(self) -> bool:
        return self.advises or bool(_SAYS_IT.search(self.text.replace("\0", "")))


def error_reference() -> str:
    """A section for each area, with its messages in alphabetical order."""
    parts = []
    found = error_messages()
    for area, title in _AREAS.items():
        messages = sorted({m for m in found if _area(m.module) == area}, key=lambda m: m.text)
        if messages:
            parts.append(heading(title))
            parts += [_entry(message) for message in messages]
    return "\n".join(parts)


def error_messages() -> list[ErrorMessage]:
    """All messages whose text stands in the source."""
    package = Path(mri2qmap.__file__).parent
    found = []
    for path in sorted(package.rglob("*.py")):
        name = ".".join(("mri2qmap", *path.relative_to(package).with_suffix("").parts))
        found += list(_messages(name.removesuffix(".__init__"), path))
    return found


def _area(module: str) -> str:
    part = module.split(".")[1]
    return part if part in _AREAS else "gadgets"


def _entry(message: ErrorMessage) -> str:
    pieces = message.text.split("\0")
    words = "".join(
        escaped(piece) if number % 2 == 0 else f"\\ *{escaped(piece)}*\\ "
        for number, piece in enumerate(pieces)
    )
    body = f":py:mod:`{message.module}`"
    if message.remedy:
        body = f"{message.remedy} {body}"
    # the escape keeps a first "--" or "*" from being the start of a list
    return f"\\ {words.strip()}\n{indented(body)}\n"


def _messages(name: str, path: Path) -> Iterator[ErrorMessage]:
    tree = ast.parse(path.read_text())
    module: ModuleType | None = None
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(scope):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = getattr(node.func, "id", "")
            if called not in (*_ERRORS, *_FINDINGS):
                continue
            module = module or importlib.import_module(name)
            if vars(module).get(called) in (Finding, scan_error):
                yield from _finding_messages(name, node, scope, vars(module))
            if called not in _ERRORS:
                continue
            for text in _texts(node.args[0], scope, vars(module)):
                words = " ".join(text.split())
                if not _RELAYED.fullmatch(words):
                    yield ErrorMessage(name, words)


def _finding_messages(
    name: str, node: ast.Call, scope: ast.AST, names: Mapping[str, object]
) -> Iterator[ErrorMessage]:
    """The message of an error that is made of parts; warnings and hints have none."""
    given = dict(zip(_PARTS, node.args, strict=False))
    given |= {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    if "level" in given or "what" not in given:
        return
    texts = {part: _last_text(value, node.lineno, scope, names) for part, value in given.items()}
    if _RELAYED.fullmatch(texts["what"]):
        return
    finding = Finding("", **{part: text for part, text in texts.items() if part != "code"})
    words = " ".join(finding.message.split())
    yield ErrorMessage(name, words, bool(finding.advice))


def _last_text(node: ast.expr, line: int, scope: ast.AST, names: Mapping[str, object]) -> str:
    """Text of an argument in a line; of a variable, the last one that it was given before."""
    if isinstance(node, ast.Name) and not isinstance(names.get(node.id), str):
        before = [
            found
            for found in ast.walk(scope)
            if isinstance(found, ast.Assign)
            and found.lineno < line
            and _is_text(found.value)
            and any(isinstance(t, ast.Name) and t.id == node.id for t in found.targets)
        ]
        if before:
            return _text(max(before, key=lambda found: found.lineno).value, names)
    return _text(node, names)


def _texts(node: ast.expr, scope: ast.AST, names: Mapping[str, object]) -> list[str]:
    """Texts that an expression may be, with the names of what is filled in between NULs."""
    if isinstance(node, ast.Name) and not isinstance(names.get(node.id), str):
        assigned = [
            found.value
            for found in ast.walk(scope)
            if isinstance(found, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == node.id for t in found.targets)
        ]
        return [t for value in assigned if _is_text(value) for t in _texts(value, scope, names)]
    return [_text(node, names)]


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _text(node: ast.expr, names: Mapping[str, object]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, names) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, names) + _text(node.right, names)
    if isinstance(node, ast.IfExp):
        return _text(node.body, names)
    constant = _constant(node, names)
    return f"\0{_name(node)}\0" if constant is None else constant


def _constant(node: ast.expr, names: Mapping[str, object]) -> str | None:
    """The value of a constant of the module; None if it is known only when the error is raised."""
    value: object = None
    if isinstance(node, ast.Name):
        value = names.get(node.id)
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        value = getattr(names.get(node.value.id), node.attr, None)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def _name(node: ast.expr) -> str:
    """What is filled in, by the name of the variable or function that it comes from."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name == "counted" and len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
            return f"number of {node.args[1].value}s"
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if node.args and not isinstance(node.args[0], ast.Constant):
            return _name(node.args[0])
        return _name(inner) if inner is not None else _words(name)
    if isinstance(node, ast.Attribute):
        return _words(node.attr)
    if isinstance(node, ast.Name):
        return _words(node.id)
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return _name(node.generators[0].iter)
    if isinstance(node, ast.BinOp):
        return _name(node.left if not isinstance(node.left, ast.Constant) else node.right)
    return "value"


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ").lower() or "value"
