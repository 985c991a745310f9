"""What ``mkdocs build`` does beyond its settings.

* The model cards, CHANGELOG.md and CONTRIBUTING.md are pages of the site where they lie, outside this folder.
* Links are written as they work in the repository. On the site they lead to the same pages; links to what is no page
  (source, examples) are left as text.
* Equations become MathML, which browsers show without a script.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {f"weights/{card.name}": f"models/{card.name}" for card in sorted((ROOT / "weights").glob("*.md"))}
OUTSIDE |= {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
ORIGIN = {page: source for source, page in OUTSIDE.items()}
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
SHOWN = re.compile(r"(^```.*?^```|^ {4}[^\n]*$)", re.M | re.S)  # as it is typed: has no links
CODE = re.compile(r"`[^`\n]*`")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside this folder."""
    for source, page in OUTSIDE.items():
        if page != "index.md":
            files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of the repository as links of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(ORIGIN.get(here, f"docs/{here}"))

    def link(found: re.Match[str]) -> str:
        text, path, anchor = found.groups()
        there = posixpath.normpath(posixpath.join(folder, path))
        target = OUTSIDE.get(there, there.removeprefix("docs/") if there.startswith("docs/") else None)
        if target is None and (ROOT / there).exists():
            return text
        return f"[{text}]({posixpath.relpath(target or there, posixpath.dirname(here) or '.')}{anchor or ''})"

    def unescaped(found: re.Match[str]) -> str:  # a table in the repository needs them escaped
        return found[0].replace("\\|", "|")

    parts = SHOWN.split(markdown)
    parts[::2] = [CODE.sub(unescaped, LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """LaTeX as MathML."""

    def equation(found: re.Match[str]) -> str:
        latex = found[2].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        math = convert(latex, display="block" if found[1] == "div" else "inline")
        return math.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em"/>')

    return EQUATION.sub(equation, html)


class Roles(griffe.Extension):
    """``:func:`name``` in a docstring is shown as code."""

    def on_instance(self, *, obj: Any, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r":[a-z]+:`~?([^`]+)`", r"`\1`", obj.docstring.value)
