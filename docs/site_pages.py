"""For ``mkdocs``: pages that lie outside docs/, links that hold on GitHub and in the site, roles in docstrings.

The documents are written to be read in the repository, where a link is relative to its file. In the site some of them
lie elsewhere: their links are changed here, and nothing is copied into docs/.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Page of the site -> file of the repository.
PAGES = {
    "index.md": "README.md",
    "tutorial.md": "README_TUTORIAL.md",
    "finetune.md": "README_FINETUNE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
    "results.md": "results/README.md",
}
# Folders whose documents and pictures are pages and files of the site.
FOLDERS = ("results/benchmarks", "results/pictures")
_LINK = re.compile(r"(\]\()([^)\s:]+)(\))")
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`~?\.?([^`]+)`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    for page, source in _outside().items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Change the links of a page, which are relative to its file in the repository, to those of the site."""
    pages = _outside()
    own = page.file.src_uri
    source = pages.get(own, f"docs/{own}")
    locations = {name: location for location, name in pages.items()}

    def change(link: re.Match[str]) -> str:
        path, sign, anchor = link[2].partition("#")
        if not path:
            return link[0]
        name = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        location = locations.get(name, name.removeprefix("docs/"))
        return f"{link[1]}{posixpath.relpath(location, posixpath.dirname(own) or '.')}{sign}{anchor}{link[3]}"

    return _LINK.sub(change, markdown)


def _outside() -> dict[str, str]:
    found = {
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in (".md", ".png")
    }
    return PAGES | found


class Roles(griffe.Extension):
    """Shows Sphinx's roles in docstrings, such as ``:class:`Task```, as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
