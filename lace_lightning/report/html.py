"""Pages in HTML of one file each: templates, pictures inside of the page, atomic writing."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from .. import __version__
from ..artifacts import atomic_path
from ..errors import LaceError

# Name of the report in the folder of a run or a sweep, and of the page over all runs.
REPORT, INDEX = "report.html", "index.html"
# Longest side of an embedded picture in pixels, and the most bytes of one.
SIDE, BYTES = 1600, 700_000
# The most bytes of an embedded animation; a larger one is a link.
ANIMATION_BYTES = 1_500_000
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A picture inside of a page.

    Args:
        uri: the picture as a data URI.
        width: its width in pixels.
        height: its height in pixels.
        alt: text for readers who do not see it.
        file: path of the whole picture, relative to the page.

    Example:
        >>> Picture("data:image/png;base64,", 4, 3, "Samples", "samples.png").width
        4
    """

    uri: str
    width: int
    height: int
    alt: str
    file: str


def embedded(path: Path, alt: str, page: Path, side: int = SIDE, limit: int = BYTES) -> Picture | None:
    """Return a picture for a page; a large one is made smaller and encoded as WebP.

    Args:
        path: the file of the picture.
        alt: text for readers who do not see it.
        page: folder of the page.
        side: longest side in pixels, at least 1.
        limit: the most bytes of the embedded file.

    Returns:
        The picture; None where the file is missing, damaged, or an animation of more than `ANIMATION_BYTES`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (300, 200)).save(f"{folder}/a.png")
        ...     picture = embedded(Path(folder, "a.png"), "black", Path(folder), side=30)
        >>> picture.width, picture.height, picture.uri[:22]
        (30, 20, 'data:image/webp;base64')
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if getattr(image, "is_animated", False):
                if path.stat().st_size > ANIMATION_BYTES:
                    return None
                return _picture(path.read_bytes(), str(image.format), image.size, alt, path, page)
            if max(image.size) <= side and path.stat().st_size <= limit and image.format in ("PNG", "WEBP"):
                image.load()
                return _picture(path.read_bytes(), image.format, image.size, alt, path, page)
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    while True:
        small.thumbnail((side, side), reducing_gap=2.0)
        stream = io.BytesIO()
        small.save(stream, "WEBP", quality=85, method=2)
        if stream.tell() <= limit or side <= 64:
            return _picture(stream.getvalue(), "WEBP", small.size, alt, path, page)
        side = int(max(small.size) * 0.75)


def _picture(data: bytes, kind: str, size: tuple[int, int], alt: str, path: Path, page: Path) -> Picture:
    uri = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    return Picture(uri, *size, alt, relative_link(path, page))


def relative_link(path: Path, page: Path) -> str:
    """Return the address of a file for a page in a folder, with the characters that addresses do not take encoded.

    Args:
        path: the file, inside of the folder.
        page: folder of the page.

    Example:
        >>> relative_link(Path("runs/a #1/report.html"), Path("runs"))
        'a%20%231/report.html'
    """
    from urllib.parse import quote

    return quote(path.relative_to(page).as_posix(), safe="/=,")


@cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Fill a template and write the page atomically; texts in `values` are escaped.

    Args:
        path: file of the page.
        template: name of the template without its ending, such as `run`.
        values: values of the template by name.

    Returns:
        The path.

    Raises:
        LaceError: when the file cannot be written.
    """
    from markupsafe import Markup

    assets = {name: Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("style.css", "script.js")}
    made = f"lace_lightning {__version__}, {time.strftime('%Y-%m-%d %H:%M')}"
    text = (
        _environment()
        .get_template(f"{template}.html")
        .render(**values, style=assets["style.css"], script=assets["script.js"], made=made)
    )
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise LaceError(
            f"The page '{path}' could not be written ({error}): free space or change permissions."
        ) from error
    return path
