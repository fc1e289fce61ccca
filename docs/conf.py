"""The documentation site: Sphinx reads the Markdown pages where they lie. `make docs` builds it, with links checked."""

project = "Detector"
author = "the authors of Detector"
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/*.md", "weights/*.md"]
exclude_patterns = ["build", "runs", ".venv", "examples/node_modules"]
extensions = ["myst_parser"]
myst_enable_extensions: list[str] = []
myst_heading_anchors = 3
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = "Detector"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_align": "left",
    "navigation_with_keys": False,
    "header_links_before_dropdown": 12,
}
html_sidebars = {"**": []}
