"""What the site needs beyond ProperDocs, so that docs/ reads the same on GitHub."""

import os
import posixpath
import re

from properdocs.structure.files import File
from pygments.formatters import HtmlFormatter

REPOSITORY = "https://github.com/wasme-io/wasme-operator/blob/"
# Links out of docs/ lead to the files of the released version.
REVISION = os.environ.get("SITE_REVISION", "main")

HEADING = re.compile(r"^## (.+)$")
ROW = re.compile(r"^\| \[([^\]]+)\]\(([^)#]+\.md)\)")
LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(\.\./[^)#\s]+)", re.MULTILINE)


def on_config(config):
    """Takes the navigation from the index page, and gives headings the anchors that GitHub gives them."""
    with open(posixpath.join(config.docs_dir, "README.md"), encoding="utf-8") as index:
        config.nav = navigation(index)
    config.mdx_configs["toc"]["slugify"] = anchor
    return config


def navigation(lines):
    """Returns the navigation: a heading of the index is a section, and the first link of a row is a page of it."""
    sections = [{"Home": "README.md"}]
    for line in lines:
        if heading := HEADING.match(line):
            sections.append({heading[1]: []})
        elif row := ROW.match(line):
            (pages,) = sections[-1].values()
            pages.append({row[1]: row[2]})
    return sections


def anchor(heading, _separator):
    """Returns the anchor of a heading, as in hack/docs/pages_test.go."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def on_files(files, config):
    """Adds the colours of code, for the light and the dark theme."""
    colours = "".join(
        HtmlFormatter(style=style).get_style_defs(f"[data-bs-theme={theme}] .highlight") + "\n"
        for theme, style in (("light", "xcode"), ("dark", "github-dark"))
    )
    files.append(File.generated(config, "css/highlight.css", content=colours))
    return files


def on_page_markdown(markdown, page, config, files):
    """Leads relative links to what is outside docs/ to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def lead(match):
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        inside = path == "docs" or path.startswith("docs/")
        return match[0] if inside else match[1] + REPOSITORY + REVISION + "/" + path

    return LINK.sub(lead, markdown)
