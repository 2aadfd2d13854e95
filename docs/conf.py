"""Sphinx configuration of the documentation site: ``make docs`` writes it to ``docs/_build``."""

import sys
import warnings
from pathlib import Path

from docutils import nodes

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE / "_ext"), str(_HERE.parent / "gadgets")]

import ismrmrd  # noqa: E402, F401  # switches all warnings on as it is imported

import mri2qmap  # noqa: E402

# What other extensions have to change for later versions of Sphinx.
for deprecated in (DeprecationWarning, PendingDeprecationWarning):
    warnings.filterwarnings("ignore", category=deprecated, module=r"(sphinx|myst_parser)\.")

project = "MRI2Qmap"
author = "the MRI2Qmap contributors"
copyright = author
release = mri2qmap.__version__
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_copybutton",
    "generated_pages",
    "links",
    "mathml",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
# Every reference into this project must resolve. Those to other projects would need their
# inventories from the network, and stay plain text.
nitpicky = True
# Type variables and private types of signatures have no page.
nitpick_ignore_regex = [
    ("py:.*", r"(?!mri2qmap\.).*"),
    ("py:class", r"mri2qmap\..*\.(_\w+|T)"),
    ("py:class", r"mri2qmap\.pipeline\.settings\.Settings"),
]
# Names of the public API are documented twice, on its page and where they are defined.
suppress_warnings = ["ref.python"]
default_role = "name"
# Quotation marks and hyphens of settings and options stay as they are typed.
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_preprocess_types = False
python_maximum_signature_line_length = 88

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
# The tests execute the notebook; the site shows the output that is stored in it.
nb_execution_mode = "off"

html_theme = "furo"
html_title = f"MRI2Qmap {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
math_numfig = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def setup(app):
    """Define the role with which docstrings of matplotlib, of which some are inherited, link."""
    app.add_generic_role("mpltype", nodes.literal)
