"""The documents as a site: pip install ".[docs]", then `sphinx-build -W -c docs . site`.

The pages are the Markdown files of the checkout, as they are; index.rst says in which order. The
source folder is the checkout, so that links between docs/ and the top folder are links here, too.
"""

project = "ppcls_lite"
copyright = "the ppcls_lite authors"
root_doc = "docs/index"
include_patterns = ["docs/*.md", "docs/*.rst", "*.md"]
extensions = ["myst_parser"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
html_theme = "furo"
html_title = "ppcls_lite"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}
pygments_dark_style = "github-dark"
