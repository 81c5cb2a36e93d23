"""Hook of mkdocs: pages of the repository and generated pages in one folder, build/docs, from which the site is made.

The folder has the layout of the repository, so that relative links between pages are the same on the site.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pages import generated_pages, title_of

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "build" / "docs"
# What pages show or link to. Files that are not Markdown are copied into the site as they are.
COPIED = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "LICENSE",
    "licences/*",
    "docs/**/*.*",
    "benchmarks/README.md",
    "benchmarks/*.png",
    "examples/*.py",
    "experiments/README.md",
    "experiments/*/*.*",
)


def on_config(config: Any) -> Any:
    """Make build/docs, and the navigation of the pages that are there."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    for path in sorted({path for pattern in COPIED for path in ROOT.glob(pattern) if path.is_file()}):
        target = SOURCE / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    shutil.copytree(ROOT / "docs_site" / "static", SOURCE / "static")
    copy_linked()
    for name, text in generated_pages(ROOT).items():
        (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
        (SOURCE / name).write_text(text, encoding="utf-8")
    config.docs_dir = str(SOURCE)
    config.nav = navigation(config.nav, SOURCE)
    return config


def on_page_content(html: str, **_: Any) -> str:
    """Keep a figure and its standard deviation on one line."""
    return html.replace(" ± ", "\u00a0±\u00a0")


def on_post_page(output: str, **_: Any) -> str:
    """Name the dialog of the search, which the theme leaves without a name, for screen readers."""
    return output.replace('role="dialog">', 'role="dialog" aria-label="Search">')


def copy_linked() -> None:
    """Copy the other files of the repository that pages link to, such as a program of the package."""
    for page in SOURCE.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s:#]+)\)", page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            source = ROOT / target.relative_to(SOURCE) if target.is_relative_to(SOURCE) else target
            if not target.exists() and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def navigation(nav: list[Any], source: Path) -> list[Any]:
    """Return the navigation without pages that are absent, and with the pages of docs/ that it does not name.

    Args:
        nav: entries of mkdocs.yml: a page, a folder (a name that ends in /) or a section of entries.
        source: folder of the pages.

    Returns:
        The entries; the pages of docs/ that none names stand at the end of the second section, the how-to guides.
    """
    known = set(_names(nav))
    others = [
        f"docs/{path.name}" for path in sorted((source / "docs").glob("*.md")) if f"docs/{path.name}" not in known
    ]
    entries = [_entry(entry, source) for entry in nav]
    for section in entries[1].values():
        section.extend(others)
    return [entry for entry in entries if entry]


def _names(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for part in entry.values() if isinstance(entry, dict) else entry:
            yield from _names(part)


def _entry(entry: Any, source: Path) -> Any:
    """Return an entry of the navigation with what is there, None where nothing is."""
    if isinstance(entry, dict):
        ((title, content),) = entry.items()
        content = _entry(content, source)
        return {title: content} if content else None
    if isinstance(entry, list):
        return [part for part in (_entry(part, source) for part in entry) if part]
    if entry.endswith("/"):
        return list(_folder(source / entry, source))
    return entry if (source / entry).is_file() else None


def _folder(folder: Path, source: Path) -> Iterable[Any]:
    """Yield the pages of a folder, the page of the folder itself first."""
    pages = sorted(folder.rglob("*.md"), key=lambda path: (len(path.relative_to(folder).parts) > 1, path))
    for path in sorted(pages, key=lambda path: path.name not in ("index.md", "README.md") or path.parent != folder):
        name = str(path.relative_to(source))
        yield name if path.parent == folder and path.stem in ("index", "README") else {_short(path): name}


def _short(path: Path) -> str:
    """Return the title of a page in the navigation: the name of an experiment, the heading of any other page."""
    return path.parent.name if path.name == "README.md" else title_of(path)
