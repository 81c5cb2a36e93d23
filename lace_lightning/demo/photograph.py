"""An own photograph on the page: its latents by projection, to begin edits with."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.photographs import read_photograph
from ..errors import LaceError
from ..pictures.convert import from_bytes, to_bytes
from ..systems.projection import ProjectionOptions, Projector
from .session import Session, Start, png_of

# Half of the steps of lace-lightning project: a visitor waits for them.
STEPS = 150
# Steps between two reports.
EVERY = 5


def project_photograph(
    session: Session, content: bytes, name: str, report: Callable[[int, int], None]
) -> dict[str, Any]:
    """Return the latents of a photograph, to begin edits with, and how near they are.

    Args:
        session: the networks.
        content: the bytes of the file.
        name: its name, for messages.
        report: function of the steps that are done and of all steps.

    Returns:
        `start` as `Start.plain`, the pictures `photograph` and `projected` as base64, `cut`, `rmse` in [-1, 1].

    Raises:
        LaceError: for a file that is no picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        # Not the name of the visitor, which may be a path.
        path = Path(folder) / "photograph"
        path.write_bytes(content)
        try:
            photograph = read_photograph(path, session.generator.image_shape)
        except LaceError as error:
            raise LaceError(str(error).replace(str(path), name)) from None
    space = "z" if session.classifier.space != "w" or not session.generator.has_w else None
    projector = Projector(session.generator, ProjectionOptions(space=space, steps=STEPS))

    def told(step: int) -> None:
        if step % EVERY == 0:
            report(step, STEPS)

    projected = projector(from_bytes(photograph.image)[None], told)
    latents = projected.z if projected.space == "z" else projected.ws
    assert latents is not None
    pictures = png_of(photograph.image[None]) + png_of(to_bytes(projected.images))
    shown = [base64.b64encode(png).decode("ascii") for png in pictures]
    return {
        "start": Start.of_latents("z" if projected.space == "z" else "w+", latents).plain(),
        "photograph": shown[0],
        "projected": shown[1],
        "cut": photograph.cut,
        "rmse": float(projected.rmse[0]),
    }
