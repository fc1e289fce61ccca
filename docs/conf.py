"""The documentation site: Sphinx reads the Markdown pages and notebooks where they lie.

`make docs` builds it, with links checked; tests/extras/test_site.py opens it.
"""

project = "Detector"
author = "the authors of Detector"
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/tutorials/*.ipynb", "benchmarks/*.md", "weights/*.md"]
exclude_patterns = ["build", "runs", ".venv", "examples/node_modules"]
extensions = ["myst_nb"]
nb_execution_mode = "off"  # they are shown as committed; tests/extras/test_tutorials.py runs them
myst_enable_extensions: list[str] = []
myst_heading_anchors = 3
nitpicky = True

html_theme = "pydata_sphinx_theme"
html_title = "Detector"
html_show_sphinx = False
html_copy_source = True  # notebooks, to run them
html_sourcelink_suffix = ""
html_show_search_summary = False  # a page from the disk can't read the others
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc", "sourcelink"],
    "navbar_align": "left",
    "navbar_center": [],
    "navigation_with_keys": False,
}
templates_path = ["templates"]
html_sidebars = {"**": ["site-navigation.html"]}
