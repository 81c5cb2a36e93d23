"""Commands that make what the page shows, and the same as files."""

from __future__ import annotations

import io
import shlex
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..seeds import range_text
from .session import BLOCK, EditSettings, PictureSettings, Session, seeds_of

# Name of the file of the latents that edits begin with, in the download.
START = "start.npz"
COMMAND = "command.txt"


def draw_command(settings: PictureSettings, words: Sequence[str]) -> list[str]:
    """Return the command that draws the pictures of settings into a folder.

    Args:
        settings: the settings.
        words: the words that name generator and classifier: --experiment NAME, and settings.

    Example:
        >>> " ".join(draw_command(PictureSettings("smile == yes"), ["--experiment", "faces_smile"])[:6])
        'lace-lightning draw smile == yes --seeds 0-15 --experiment'
    """
    return [
        "lace-lightning",
        "draw",
        settings.query,
        "--seeds",
        range_text(seeds_of(settings.seeds)),
        *words,
        f"+method={settings.method}",
        f"query.weight={settings.strength:g}",
        # Samples are computed together as on the page.
        f"metrics.batch_size={BLOCK}",
    ]


def edit_command(settings: EditSettings, words: Sequence[str]) -> list[str]:
    """Return the command that edits the latents of `START` as settings do.

    Args:
        settings: the settings, with at least one edit.
        words: the words that name generator and classifier: --experiment NAME, and settings.

    Example:
        >>> from lace_lightning.demo.session import Start
        >>> edit_command(EditSettings(Start(5), ("smile == yes",)), ["--experiment", "faces_smile"])[2:4]
        ['start.npz', 'smile == yes']
    """
    held = [] if settings.keeps_identity else ["editing.proximity=0", "editing.keep=0"]
    return [
        "lace-lightning",
        "edit",
        START,
        *settings.edits,
        *words,
        f"+method={settings.method}",
        "editing=from_start",
        f"editing.weight={settings.strength:g}",
        *held,
    ]


def zip_of_pictures(session: Session, settings: PictureSettings, words: Sequence[str]) -> bytes:
    """Return a zip file of pictures, latents, table, contact sheet, report and command, as `Samples.save` writes them.

    Args:
        session: the networks.
        settings: the settings of the pictures.
        words: the words of the command, see `draw_command`.

    Raises:
        LaceError: in the cases of `Session.pictures`.
    """
    made = session.pictures(settings)
    # Imports Lightning, which the page does not need before the first download.
    from ..systems.handover import Samples, sample_table

    latents = _latents(session, made.sample.z)
    table = sample_table(made.query, made.seeds, made.sample, None, made.free, made.probabilities)
    command = shlex.join(draw_command(settings, words)) if made.query is not None else ""
    title = "" if made.query is None else made.query.text
    samples = Samples(made.images, **latents, seeds=made.seeds, table=table, report=_report(command), title=title)
    with tempfile.TemporaryDirectory() as folder:
        return _zipped(samples.save(Path(folder) / "pictures"), command)


def zip_of_edits(session: Session, settings: EditSettings, words: Sequence[str]) -> bytes:
    """Return a zip file of a picture before and after each edit, with latents, and the command that edits it.

    Args:
        session: the networks.
        settings: the settings of the edits.
        words: the words of the command, see `edit_command`.

    Raises:
        LaceError: in the cases of `Session.edited`.
    """
    edits = session.edited(settings)
    from ..systems.handover import SampleFolder, Step, write_steps

    command = shlex.join(edit_command(settings, words)) if settings.edits else ""
    titles = ["before", *settings.edits]
    steps = []
    for state, image, title in zip(edits.states, edits.images, titles, strict=True):
        styles = {"ws": state.ws} if session.generator.has_layers else {"w": state.ws[:, 0]}
        latents = {**({} if state.z is None else {"z": state.z}), **(styles if session.generator.has_w else {})}
        row = {"seed": settings.start.seed, "edit": title, "evaluations": state.evaluations}
        steps.append(Step(image[None], latents, [row]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edits"
        with SampleFolder(path, 1, {"edits": titles}, steps=titles) as out:
            write_steps(out, 0, steps)
            out.finish(_report(command))
        first = edits.states[0]
        name, start = ("w", first.ws) if first.z is None else ("z", first.z)
        arrays: dict[str, Any] = {name: start.detach().cpu().numpy()}
        np.savez(path / START, **arrays)
        return _zipped(path, command)


def _latents(session: Session, z: Any) -> dict[str, Any]:
    generator = session.generator
    if not generator.has_w:
        return {"z": z}
    w = generator.mapping(z)
    return {"z": z, "w": w, **({"ws": generator.broadcast(w)} if generator.has_layers else {})}


def _report(command: str) -> dict[str, Any]:
    from .. import __version__

    return {"command": command or "none: nothing was asked for", "version": __version__}


def _zipped(folder: Path, command: str) -> bytes:
    """Return the files of a folder, without hidden ones, and the command."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                archive.write(path, path.name)
        if command:
            archive.writestr(COMMAND, command + "\n")
    return content.getvalue()
