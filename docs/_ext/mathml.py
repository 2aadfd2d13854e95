"""Equations as MathML: browsers show them without any script, also where there is no network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

_SHORT_FRACTION = re.compile(r"(\\[td]?frac)\s*(\d)(\d)")
"""Such as ``\\tfrac12``, whose digits the converter takes for one number."""


def mathml(tex: str, as_block: bool = False) -> str:
    """Convert an equation of LaTeX to MathML.

    Raises
    ------
    MathError
        If it has a command that is not known.
    """
    return tex2mathml(_SHORT_FRACTION.sub(r"\1{\2}{\3}", tex), as_block=as_block)


def _converted(node: nodes.math | nodes.math_block, as_block: bool) -> str:
    try:
        return mathml(node.astext(), as_block)
    except MathError as error:
        logger.warning("equation %r: %s", node.astext(), error, location=node)
        return f"<code>{node.astext()}</code>"


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write an equation within a line."""
    self.body.append(_converted(node, as_block=False))
    raise nodes.SkipNode


def visit_displayed(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed equation with its number."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(_converted(node, as_block=True) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
