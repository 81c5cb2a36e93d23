"""Projection of photographs in files: latents, pictures and figures of each, written batch by batch."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from torch import Tensor

from .. import __version__
from ..artifacts import atomic_path, check_writable, digest, known_sha256, read_json, write_json
from ..cache import locked
from ..classifiers import load_embedding
from ..classifiers.embedding import Embedding
from ..configuration import choices, config_folder
from ..data.latent_files import Layout, write_latents
from ..data.photographs import photograph_files, read_photograph
from ..errors import LaceError, in_one_line, suggest
from ..generators import Generator, load_generator
from ..labelers import Labeler
from ..pictures.convert import at_a_time, downscale, from_bytes, to_bytes
from ..pictures.grids import labelled_grid, read_image, to_picture
from ..progress import bar
from ..report.text import Table
from ..source import identity_of
from ..systems.projection import Projected, ProjectionOptions, Projector
from .nodes import Node
from .study import generator_of, labeler_of

# Rows of the contact sheet.
SHOWN = 16
# Identity embeddings of generators.
IDENTITIES = {"faces": "face_api_descriptor", "portraits": "portraits_identity"}


@dataclass
class Networks:
    """The networks of a projection.

    Args:
        generator: the frozen generator.
        judge: an image network whose features can be compared; None for none.
        identity: an identity embedding; None for none.

    Example:
        >>> from lace_lightning.examples import tiny_generator
        >>> Networks(tiny_generator()).identity is None
        True
    """

    generator: Generator
    judge: Labeler | None = None
    identity: Embedding | None = None

    @classmethod
    def of(cls, generator: str | None, experiment: str | None = None, settings: Sequence[str] = ()) -> Networks:
        """Load the networks of a generator or of an experiment.

        Args:
            generator: name of a generator (a file of conf/generator, or what `load_generator` takes); None for that of
                the experiment. Judge and identity embedding of the same name are taken where there are any.
            experiment: name of an experiment, whose judge and identity embedding are taken too; None for none.
            settings: further settings, as on the command line.

        Raises:
            LaceError: for unknown names and settings, and networks that cannot be loaded.
        """
        known = choices("generator")
        words = [] if experiment is None else [f"+experiment={experiment}"]
        if generator is not None and generator in known:
            words.append(f"generator={generator}")
            if experiment is None and generator in choices("judge"):
                words.append(f"judge={generator}")
        plain = _composed([*words, *settings])
        task = plain.get("task") or {}
        identity = task.get("identity")
        if generator is None or generator in known:
            node = Node("generator", plain["generator"])
            network = generator_of(node)
        else:
            network = _by_name(generator, known)
        name = generator or ""
        if experiment is None:
            identity = IDENTITIES.get(name)
        has_judge = experiment is not None or name in choices("judge")
        judge = labeler_of(Node("judge", plain["judge"])) if has_judge and plain.get("judge") else None
        return cls(network, judge, load_embedding(identity))

    def features(self, choice: str | None) -> dict[str, Labeler | Embedding]:
        """Return the networks whose features are compared, by their roles.

        Args:
            choice: identity, judge, both with a comma, or none; None for those that there are.

        Raises:
            LaceError: for a network that there is not, and another word.
        """
        own: dict[str, Labeler | Embedding | None] = {"identity": self.identity, "judge": self.judge}
        if choice is None:
            return {name: network for name, network in own.items() if network is not None}
        found: dict[str, Labeler | Embedding] = {}
        for name in [] if choice == "none" else choice.split(","):
            if name not in own:
                raise LaceError(
                    f"The features of a projection must be of {' or '.join(own)}, or none, received '{name}'."
                    f"{suggest(name, own)}"
                )
            network = own[name]
            if network is None:
                raise LaceError(
                    f"The features of the {name} were asked for, and there is none for this generator: give "
                    "--experiment NAME with one, or --features none."
                )
            found[name] = network
        return found


def _by_name(generator: str, known: Sequence[str]) -> Generator:
    try:
        return load_generator(generator)
    except LaceError as error:
        if os.sep in generator or "." in generator:
            raise
        raise LaceError(f"There is no generator '{generator}'.{suggest(generator, known)} ({error})") from None


def _composed(words: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of a command line in plain containers."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            cfg = compose("config", list(words))
        # The parts alone: others depend on a run of Hydra.
        return {
            name: OmegaConf.to_container(cfg[name], resolve=True) if cfg.get(name) is not None else None
            for name in ("generator", "judge", "task")
        }
    except HydraException as error:
        raise LaceError(f"The settings '{' '.join(words)}' cannot be composed ({in_one_line(error)}).") from None


def project_files(
    paths: Sequence[str],
    networks: Networks,
    out: str | os.PathLike[str],
    options: ProjectionOptions,
    features: str | None = None,
    crop: Sequence[int] | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Project photographs in files and folders, and write the results into a folder.

    For each photograph there are `photographs/<name>.png` (as it was cut), `projected/<name>.png`, `latents/<name>.npz`
    (`w` or `z`) and `records/<name>.json`. `projection.csv` and `samples.png` are those of all. A photograph is
    finished when its record is written; the same call leaves it as it is.

    Args:
        paths: files and folders of photographs.
        networks: generator, judge and identity embedding.
        out: folder of the results.
        options: options of the projection.
        features: networks whose features are compared: identity, judge, both with a comma, or none; None for those that
            there are.
        crop: left, top, width and height in pixels of the part of every photograph; None for the square in the middle.
        batch_size: photographs that are optimised together, at least 1; None for 16, fewer of large ones.
        progress: whether to show a progress bar.

    Returns:
        The records of the photographs, in their order.

    Raises:
        LaceError: for photographs that cannot be read, a part outside of one, and a folder that cannot be written.
    """
    generator, files = networks.generator, photograph_files(paths)
    inside = next((path for path in map(Path, paths) if Path(out).resolve().is_relative_to(path.resolve())), None)
    if inside is not None:
        raise LaceError(
            f"The results must not be inside of the folder of photographs '{inside}', where they would be taken for "
            f"photographs, and are to be in '{out}': choose another folder."
        )
    folder = check_writable(out)
    compared = networks.features(features)
    role = " and ".join(compared) or "none"
    space = options.space_of(generator)
    recipe = {
        "generator": identity_of(generator),
        "features": {
            name: network.protocol if isinstance(network, Embedding) else network.digest
            for name, network in compared.items()
        },
        "identity": None if networks.identity is None else networks.identity.protocol,
        "options": asdict(options),
        "space": space,
        "crop": None if crop is None else list(crop),
        "version": __version__,
    }
    identities = {name: digest({**recipe, "file": known_sha256(path)}) for name, path in files.items()}
    with locked(folder, "the projection", waits=False):
        undone = [name for name in files if not _is_done(folder, name, identities[name])]
        if undone:
            # All are read once before the first is projected, so that a wrong one is found early.
            for name in undone:
                read_photograph(files[name], generator.image_shape, crop)
            size = batch_size or at_a_time(torch.empty(1, *generator.image_shape, device="meta"), 16)
            projector = Projector(generator, options, list(compared.values()), networks.identity)
            with bar("projection", len(undone), "photograph", progress) as line:
                for first in range(0, len(undone), size):
                    names = undone[first : first + size]
                    read = [read_photograph(files[name], generator.image_shape, crop) for name in names]
                    projected = projector(torch.stack([from_bytes(part.image) for part in read]))
                    for number, (name, part) in enumerate(zip(names, read, strict=True)):
                        one = projected.rows(slice(number, number + 1))
                        record = {"file": str(files[name]), "cut": part.cut, "space": space, "features": role}
                        _write(folder, name, part.image, one, {**record, **_figures(one)}, identities[name])
                    line.update(len(names))
        records = [{"name": name, **read_json(_place(folder, "records", name))} for name in files]
        _write_all(folder, records, recipe)
    return records


def _place(folder: Path, kind: str, name: str) -> Path:
    ending = {"records": "json", "latents": "npz"}.get(kind, "png")
    return folder / kind / f"{name}.{ending}"


def _is_done(folder: Path, name: str, identity: str) -> bool:
    record = _place(folder, "records", name)
    if not (record.is_file() and _place(folder, "latents", name).is_file()):
        return False
    try:
        return bool(read_json(record).get("identity_of_work") == identity)
    except LaceError:
        return False


def _figures(projected: Projected) -> dict[str, float]:
    """Return the figures of one projection."""
    values = {name: getattr(projected, name) for name in ("rmse", "distance", "identity", "closest")}
    return {name: round(float(value), 5) for name, value in values.items() if value is not None}


def _write(
    folder: Path, name: str, image: Tensor, projected: Projected, record: Mapping[str, Any], identity: str
) -> None:
    for kind, picture in (("photographs", image), ("projected", to_bytes(projected.images[0]))):
        with atomic_path(_place(folder, kind, name)) as temporary:
            to_picture(picture).save(temporary, format="png")
    latents = projected.latents
    key = "z" if projected.space == "z" else "w"
    write_latents(_place(folder, "latents", name), latents, Layout(".npz", key, tuple(latents.shape), "float32"))
    # Last: the photograph is finished where the record exists.
    write_json(_place(folder, "records", name), {**record, "identity_of_work": identity})


def _write_all(folder: Path, records: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> None:
    columns = ["name", "file", "cut", "space", "features", "rmse", "distance", "identity", "closest"]
    present = [name for name in columns if any(name in record for record in records)]
    with (
        atomic_path(folder / "projection.csv") as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as stream,
    ):
        table = csv.writer(stream)
        table.writerow(present)
        table.writerows([record.get(name, "") for name in present] for record in records)
    shown = [record["name"] for record in records[:SHOWN]]
    rows = [
        downscale(torch.stack([read_image(_place(folder, kind, name)) for kind in ("photographs", "projected")]))
        for name in shown
    ]
    grid = labelled_grid(rows, shown, columns=["photograph", "projected"], scale=max(1, 96 // rows[0].shape[-1]))
    with atomic_path(folder / "samples.png") as temporary:
        grid.save(temporary, format="png")
    figures = {
        name: float(np.mean([record[name] for record in records]))
        for name in ("rmse", "distance", "identity", "closest")
        if all(name in record for record in records)
    }
    write_json(folder / "report.json", {"photographs": len(records), "means": figures, "recipe": dict(recipe)})


def summary(records: Sequence[Mapping[str, Any]], options: ProjectionOptions) -> str:
    """Return the figures of projections as text.

    Args:
        records: records, as `project_files` returns them.
        options: options of the projection.

    Example:
        >>> record = {"name": "me", "cut": "8x8, to 8x8", "space": "w", "features": "none", "rmse": 0.1}
        >>> print(summary([record], ProjectionOptions(space="w")).splitlines()[-1])
        Projected to w: weights 0.0003 of the prior, 0.1 of the features (none).
    """
    names = [name for name in ("rmse", "distance", "identity", "closest") if name in records[0]]
    titles = {
        "rmse": "pixels, rms",
        "distance": "features",
        "identity": "identity",
        "closest": "closest other identity",
    }
    rows = [[record["name"], *(record.get(name) for name in names), record["cut"]] for record in records]
    space, features = records[0]["space"], records[0]["features"]
    spread = f", {options.spread:g} of the spread of layers" if space == "w+" else ""
    lines = [
        Table(["photograph", *(titles[name] for name in names), "cut"], rows).text(),
        f"Projected to {space}: weights {options.prior:g} of the prior{spread}, {options.features:g} of the features "
        f"({features}).",
    ]
    if "identity" in names:
        under = sum(record["identity"] < record["closest"] / 2 for record in records)
        optimised = ", which was optimised" if "identity" in features else ""
        lines.append(
            f"Identity{optimised}: below half of the closest other person's for {under} of {len(records)} photographs."
        )
    return "\n".join(lines)


def project_command(
    paths: Sequence[str],
    generator: str | None,
    experiment: str | None,
    out: str,
    settings: Sequence[str],
    options: ProjectionOptions,
    **more: Any,
) -> None:
    """Project photographs as the command line asks for it, and print the figures.

    Args:
        paths: files and folders of photographs.
        generator: name of the generator; None for that of the experiment.
        experiment: name of the experiment; None for none.
        out: folder of the results.
        settings: further settings of generator and judge, as on the command line.
        options: options of the projection.
        more: further arguments of `project_files`.

    Raises:
        LaceError: where neither a generator nor an experiment is named, and in the cases of `project_files`.
    """
    if generator is None and experiment is None:
        raise LaceError(
            "A projection needs a generator: give --generator NAME, such as portraits, or --experiment NAME."
        )
    # Before the networks are loaded.
    photograph_files(paths)
    records = project_files(paths, Networks.of(generator, experiment, settings), out, options, **more)
    print(summary(records, options))
    print(f"results in {out}")
    sys.stdout.flush()
