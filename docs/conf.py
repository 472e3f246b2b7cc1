"""Settings of Sphinx for `make docs`."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

project = 'AlexNet in JAX'
html_title = project
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
html_theme = 'furo'
html_show_copyright = False
# Links such as gpus.md#memory, by the headings that GitHub makes them of.
myst_heading_anchors = 3
# Attributes are described in their class's docstring, not a second time below.
napoleon_use_ivar = True
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
