"""How Sphinx builds this site. Its pages are MyST Markdown; what can be generated from the program is (_ext/generated.py)."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "l2l"
author = "l2l developers"
copyright = author
version = release = importlib.metadata.version("l2lcli")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_build", "jupyter_execute"]
default_role = "code"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 4

# Notebooks are run whenever the site is built, in a folder of their own, and a cell that raises is an error.
nb_execution_mode = "force"
nb_execution_excludepatterns = ["examples/torch_mlp/*"]  # PyTorch is not here: kept as it was run; `make frameworks` runs it
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_merge_streams = True

autodoc_typehints = "none"  # the docstrings say shapes and units, and a signature is shorter without the types
autodoc_member_order = "bysource"
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"l2l {release}"
html_static_path = ["_static"]
html_css_files = ["l2l.css"]
html_theme_options = {"navigation_with_keys": True}
