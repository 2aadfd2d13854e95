"""Links: names in docstrings, and links between the repository's Markdown files.

In docstrings a name in single backticks, as `match`, becomes a link where this project documents
exactly one such thing, looked up from the module outwards; otherwise it is shown as code. A full
name, which begins with ``mri2qmap.``, must exist.

The Markdown files outside ``docs/`` are included by pages below ``docs/``. Their links are written
for a reader of the repository; here they are turned into links between pages.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

logger = logging.getLogger(__name__)

_LINK = re.compile(r"\]\((?!https?:|#|/)([^)#\s]+)((?:#[^)\s]*)?)\)")
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*$")
PACKAGE = "mri2qmap"


def name_role(
    role: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Inliner,
    options: dict[str, Any] | None = None,
    content: list[str] | None = None,
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Return a name in single backticks as a reference that is resolved when all is read."""
    code = nodes.literal(rawtext, text, classes=["xref"])
    if not _NAME.match(text):
        return [code], []
    env = inliner.document.settings.env
    reference = addnodes.pending_xref(
        rawtext,
        code,
        refdomain="",
        reftype="name",
        reftarget=text,
        refdoc=env.docname,
        module=env.ref_context.get("py:module") or "",
        owner=env.ref_context.get("py:class") or "",
    )
    reference.line = lineno
    return [reference], []


def find_name(known: set[str], name: str, module: str, owner: str = "") -> str | None:
    """Return the full name of what `name` means in a docstring; None if that is not clear.

    Parameters
    ----------
    known
        Full names of everything that is documented.
    name
        As written, with or without qualification.
    module, owner
        Module and class in whose docstring it stands.
    """
    for prefix in (f"{module}.{owner}.", f"{module}.", ""):
        if prefix + name in known:
            return prefix + name
    ending = f".{name}"
    candidates = sorted((full for full in known if full.endswith(ending)), key=len)
    # A gadget's function has the name of its module, which is the shorter one.
    if candidates and all(full.startswith(candidates[0]) for full in candidates):
        return candidates[-1] if candidates[-1].endswith(f"{ending}{ending}") else candidates[0]
    return None


def resolve_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Link a name of `name_role`, or leave it as code."""
    if node.get("reftype") != "name":
        return None
    objects = env.get_domain("py").objects
    found = find_name(set(objects), node["reftarget"], node["module"], node["owner"])
    if found is None:
        if node["reftarget"].startswith(f"{PACKAGE}."):
            logger.warning("there is no %s", node["reftarget"], location=node, type="ref")
        return contnode
    entry = objects[found]
    return make_refnode(
        app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, title=found
    )


def page_link(target: str, folder: str) -> str:
    """Turn a relative link of a Markdown file of the repository into one of the site.

    Parameters
    ----------
    target
        As written, relative to the file.
    folder
        Folder of that file, relative to the repository.
    """
    parts: list[str] = []
    for part in PurePosixPath(folder, target).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    if parts[:1] == ["docs"]:
        return "/" + "/".join(parts[1:])
    if parts[:1] == ["models"] and parts[-1].endswith(".md"):
        return "/" + "/".join(parts)
    return target


def rewritten(text: str, folder: str) -> str:
    """Markdown with the links of a file in `folder` of the repository turned into site links."""
    return _LINK.sub(lambda found: f"]({page_link(found[1], folder)}{found[2]})", text)


def rewrite_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite the links of a page below ``docs/``."""
    if env_path := app.env.doc2path(docname):
        if Path(env_path).suffix == ".md":
            source[0] = rewritten(source[0], str(PurePosixPath("docs", docname).parent))


def rewrite_included(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Rewrite the links of an included file, for example a model card."""
    folder = (Path(app.srcdir) / path).resolve().parent
    repository = Path(app.srcdir).resolve().parent
    if folder.is_relative_to(repository):
        content[0] = rewritten(content[0], folder.relative_to(repository).as_posix())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role, its resolution, and the link rewriting."""
    app.add_role("name", name_role)
    app.connect("missing-reference", resolve_name)
    app.connect("source-read", rewrite_page)
    app.connect("include-read", rewrite_included)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
