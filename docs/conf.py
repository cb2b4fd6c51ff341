"""How the site is built: `make docs`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "_ext")]

warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor")

import ppvae  # noqa: E402

project = "ppvae"
author = "The ppvae authors"
release = version = ppvae.__version__
copyright = author

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "ppvae_docs"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ppvae"
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["ppvae.css"]

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "math"  # in docstrings, where $x$ becomes `x`: see _ext/ppvae_docs.py

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes stand in the class's text once, not as objects beside the fields they describe
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
pygments_style = "friendly"
