"""Commands by name: drawing, editing, projection, conversion, exports, lists of networks, downloads, the cache."""

from __future__ import annotations

import hashlib
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .configuration import GROUPS, config_folder, describe, overview
from .errors import LaceError, no_edits, suggest

if TYPE_CHECKING:
    from .cache import Stored


def version() -> str:
    """Return the versions of the program, of Python and of torch, without an import of torch."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    return f"lace_lightning {__version__}, Python {platform.python_version()}, torch {torch}"


# A word of the command line that is a setting, key=value, and no query such as "smile==1".
SETTING = re.compile(r"[~+\w.@/-]+=(?!=)")
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT.safetensors")
@click.argument("which", required=False)
@click.option("--lr-multiplier", type=float, help="learning rate multiplier of the mapping, where the file has none")
def convert(source: str, target: str, which: str | None, lr_multiplier: float | None) -> None:
    """Convert a generator of another program to safetensors.

    WHICH names the network of a file that holds several: G_ema, G, g_ema.
    """
    from .generators import convert as convert_file

    options: dict[str, Any] = {"which": which, "lr_multiplier": lr_multiplier}
    card = convert_file(source, target, **{name: value for name, value in options.items() if value is not None})
    print(f"{card['what']}, {card['parameters'] / 1e6:.1f} M parameters, from {card['layout']}")
    if card.get("taken"):
        print(f"taken: {card['taken']}")
    for assumption in card["assumed"]:
        print(f"assumed: {assumption}")
    print(f"source sha256 {card['source_sha256']}\n{target}: {card['bytes'] / 2**20:.1f} MiB, sha256 {card['sha256']}")


@click.command(context_settings=CONTEXT)
def models() -> None:
    """List the shipped and the published networks, and whether they are on this machine."""
    from .catalogue import NETWORKS, downloads_folder
    from .weights import card, weight_names

    rows = [("name", "size", "", "licence", "what")]
    for name in weight_names():
        entry = card(name)
        rows.append((name, _size(entry["bytes"]), "shipped", entry["licence"].split(" (")[0], entry["what"]))
    for network in NETWORKS:
        state = "not here" if not network.path.is_file() else "here" if network.record.is_file() else "not checked"
        rows.append((network.name, _size(network.bytes) or network.size or "?", state, network.licence, network.what))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())
    print(
        f"\nlace-lightning download NAME brings one that is not here to {downloads_folder()}; generator=NAME uses it."
    )


def _size(count: int | None) -> str:
    if count is None:
        return ""
    return (
        f"{count / 1e3:.1f} kB" if count < 1e5 else f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"
    )


@click.command(context_settings=CONTEXT)
@click.argument("name")
@click.option("--sha256", metavar="HEX", help="The checksum that the file must have.")
@click.option(
    "--trust-first", is_flag=True, help="Accept any checksum of the first file, and require the same one from then on."
)
def download(name: str, sha256: str | None, trust_first: bool) -> None:
    """Download a published generator, or check a file that was put in its place by hand."""
    if sha256 is not None and trust_first:
        raise LaceError("download takes at most one of --sha256 HEX and --trust-first, received both: leave one out.")
    from .artifacts import file_sha256
    from .catalogue import published, published_path

    path = published_path(name, sha256, trust_first)
    print(
        f"{published(name).what}, {published(name).licence}\n{path}: {_size(path.stat().st_size)}, sha256 "
        f"{file_sha256(path)}"
    )


@click.command("export", context_settings=CONTEXT)
@click.argument("target", metavar="FILE")
@click.option("--generator", default="cifar10", show_default=True, help="Name or file of the generator.")
@click.option("--classifier", help="Name or file of a classifier of its latents; without --query it is exported.")
@click.option(
    "--query", help="The condition of a flow, such as 'label == ship'; 'label == *' makes the class an input."
)
@click.option("--steps", type=click.IntRange(min=1), default=16, show_default=True, help="Steps of the flow.")
@click.option("--weight", type=click.FloatRange(min=0), help="Strength γ of the condition, 6 by default.")
def export_command(
    target: str, generator: str, classifier: str | None, query: str | None, steps: int, weight: float | None
) -> None:
    """Write a generator, a classifier or a flow to FILE (.onnx or .pt2) for programs without this one."""
    if query is not None and classifier is None:
        raise LaceError("A flow needs a classifier of latents beside --query: give --classifier NAME.")
    from .classifiers import load_classifier
    from .exports import Exportable, FixedFlow, export
    from .generators import load_generator
    from .samplers import Euler
    from .systems.lace import EnergyOptions

    module: Exportable
    if classifier is None:
        module = load_generator(generator)
    else:
        module = load_classifier(classifier)
        if query is not None:
            options = EnergyOptions(target="controlled", weight=weight)
            sampler = Euler(grid="cubic", num_steps=steps)
            module = FixedFlow(load_generator(generator), module, query, sampler, options)
    path = export(module, target)
    print(f"{path}: {_size(path.stat().st_size)}")


@click.group("cache", context_settings=CONTEXT, invoke_without_command=True)
@click.pass_context
def cache(context: click.Context) -> None:
    """List or remove what is kept for later runs (pairs, trained systems, statistics): `cache`, `cache remove`."""
    if context.invoked_subcommand is None:
        _list_cache(None)


@cache.command("list")
@click.argument("kind", required=False)
def list_cache(kind: str | None) -> None:
    """List the entries of the cache, or those of one KIND (pairs, systems, ...)."""
    _list_cache(kind)


def _list_cache(kind: str | None) -> None:
    from .cache import cache_folder
    from .report.text import Table

    stored = _stored(kind)
    if not stored:
        print(f"{cache_folder()} is empty.")
        return
    now = time.time()
    rows = [
        [entry.kind, entry.key, _size(entry.size), _age(now - entry.changed), _cut(entry.command)] for entry in stored
    ]
    total = sum(entry.size for entry in stored)
    print(Table(["kind", "key", "size", "age", "made by"], rows).text())
    print(f"\n{len(stored)} entries, {_size(total)}, in {cache_folder()}")


@cache.command("remove")
@click.argument("keys", nargs=-1)
@click.option("--kind", metavar="KIND", help="Remove entries of this kind.")
@click.option("--older", metavar="DAYS", type=click.FloatRange(min=0), help="Remove entries older than so many days.")
@click.option("--all", "everything", is_flag=True, help="Remove all entries.")
def remove_cache(keys: tuple[str, ...], kind: str | None, older: float | None, everything: bool) -> None:
    """Remove entries by KEYS, by kind, by age, or all of them."""
    if not (keys or kind or older is not None or everything):
        raise LaceError(
            "cache remove needs keys, --kind, --older or --all: 'lace-lightning cache' lists what there is."
        )
    stored = _stored(kind)
    names = [entry.key for entry in stored]
    for key in keys:
        if key not in names:
            raise LaceError(f"There is no entry '{key}' in the cache.{suggest(key, names)}")
    limit = time.time() - (older or 0) * 86400
    chosen = [
        entry for entry in stored if (not keys or entry.key in keys) and (older is None or entry.changed <= limit)
    ]
    from .cache import Cache, cache_folder

    for entry in chosen:
        Cache(cache_folder()).remove(entry)
    print(f"removed {len(chosen)} entries, {_size(sum(entry.size for entry in chosen))}")


def _stored(kind: str | None) -> list[Stored]:
    from .cache import Cache, cache_folder

    stored = Cache(cache_folder()).stored()
    kinds = sorted({entry.kind for entry in stored})
    if kind is not None and kind not in kinds:
        raise LaceError(
            f"There is nothing of the kind '{kind}' in the cache: the kinds are {', '.join(kinds) or 'none'}."
            f"{suggest(kind, kinds)}"
        )
    return [entry for entry in stored if kind in (None, entry.kind)]


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} seconds"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


@click.command(context_settings=CONTEXT)
@click.argument("latents")
@click.argument("words", metavar="EDIT... [KEY=VALUE ...]", nargs=-1, required=True)
@click.option("--experiment", metavar="NAME", required=True, help="Generator, classifier and judge (list experiment).")
@click.option("--out", metavar="FOLDER", help="Folder of the results; LATENTS_edited by default.")
@click.option(
    "--space", type=click.Choice(["z", "w", "w+"]), help="Space of the latents, where shape and names fit several."
)
def edit(latents: str, words: Sequence[str], experiment: str, out: str | None, space: str | None) -> list[str]:
    """Edit LATENTS (a file or a folder: .npy, .npz, .pt, .pkl) step by step.

    Each EDIT is a query such as "smile == 1" or "age == 0.7"; KEY=VALUE are settings of the run. The edited latents
    have the layout of the files. The same command goes on where it was stopped.
    """
    return edit_arguments(latents, words, experiment, out, {"space": space})


def edit_arguments(
    latents: str, words: Sequence[str], experiment: str, out: str | None, task: Mapping[str, str | None]
) -> list[str]:
    """Return the command line of the run that edits latents.

    Args:
        latents: file or folder of latents.
        words: edits, and settings as key=value.
        experiment: name of the experiment.
        out: folder of the results; None for the name of the latents with _edited.
        task: further settings of the task; those that are None are left out.

    Raises:
        LaceError: where there is no edit.

    Example:
        >>> edit_arguments("a.npy", ["hat == 1", "seed=2"], "portraits_edit", None, {"space": "w"})[:3]
        ['experiment=portraits_edit', 'task=edit', 'task.weights=auto']
    """
    settings = [word for word in words if SETTING.match(word)]
    edits = [word for word in words if word not in settings]
    if not edits:
        raise no_edits()
    folder = out or f"{Path(latents).with_suffix('').name}_edited"
    queries = ",".join(f"'{query}'" if '"' in query else f'"{query}"' for query in edits)
    return [
        f"experiment={experiment}",
        "task=edit",
        # As in draw: a shipped classifier, where there is one for the generator, the settings and the edits.
        "task.weights=auto",
        # Experiments that are sweeps become one run.
        "hydra.mode=RUN",
        f"hydra.run.dir={folder}",
        f"task.edits=[{queries}]",
        f"task.latents={latents}",
        *(f"task.{name}={value}" for name, value in task.items() if value is not None),
        *settings,
    ]


@click.command(context_settings=CONTEXT)
@click.argument("words", metavar="PHOTOGRAPH... [KEY=VALUE ...]", nargs=-1, required=True)
@click.option("--generator", metavar="NAME", help="The generator: portraits, cifar10, a file (list generator).")
@click.option("--experiment", metavar="NAME", help="Generator, judge and identity embedding of an experiment.")
@click.option("--out", metavar="FOLDER", default="projected", show_default=True, help="Folder of the results.")
@click.option("--space", type=click.Choice(["z", "w", "w+"]), help="Space of the latents; the last that there is.")
@click.option("--crop", metavar="X,Y,W,H", help="Part of every photograph in pixels; the square in the middle.")
@click.option("--features", metavar="NETWORKS", help="identity, judge, both with a comma, or none; those there are.")
@click.option("--steps", type=int, help="Steps of the optimisation.")
@click.option("--starts", type=int, help="Points at which it begins.")
@click.option("--prior", type=float, help="Weight that holds latents near the prior.")
@click.option("--seed", type=int, help="Seed of the candidates for the starts.")
@click.option("--edit", "edits", metavar="QUERY", multiple=True, help="Edit the latents; needs --experiment.")
def project(
    words: Sequence[str],
    generator: str | None,
    experiment: str | None,
    out: str,
    crop: str | None,
    features: str | None,
    edits: Sequence[str],
    **options: Any,
) -> list[str] | None:
    """Find latents of photographs (files or folders), and edit them.

    The same command goes on where it was stopped.
    """
    settings = [word for word in words if SETTING.match(word) and not Path(word).exists()]
    photographs = [word for word in words if word not in settings]
    if edits and experiment is None:
        raise LaceError("--edit needs a classifier: give --experiment NAME, such as portraits_edit (list experiment).")
    from .run.project import project_command
    from .systems.projection import ProjectionOptions

    given = ProjectionOptions(**{name: value for name, value in options.items() if value is not None})
    project_command(
        photographs, generator, experiment, out, settings, given, features=features, crop=_numbers("crop", crop, 4)
    )
    if not edits:
        return None
    own = [f"generator={generator}"] if generator is not None else []
    return edit_arguments(
        f"{out}/latents", [*edits, *own, *settings], str(experiment), out, {"photographs": f"{out}/photographs"}
    )


def _numbers(name: str, text: str | None, count: int) -> list[int] | None:
    """Return the whole numbers of a list with commas, None for none."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(re.fullmatch(r"-?\d{1,9}", part) for part in parts):
        raise LaceError(f"--{name} must be {count} whole numbers with commas, received '{text}': write 10,20,300,300.")
    return [int(part) for part in parts]


@click.command("list", context_settings=CONTEXT)
@click.argument("group", required=False)
def list_group(group: str | None) -> None:
    """List the files of a configuration GROUP (experiment, sampler, ...) with their descriptions."""
    if group is None:
        print(overview())
        return
    names = sorted(path.name for path in config_folder().iterdir() if path.is_dir() and any(path.glob("*.yaml")))
    if group not in names:
        raise LaceError(f"There is no group '{group}': the groups are {', '.join(names)}.{suggest(group, names)}")
    entries = describe(group)
    width = max(len(name) for name, _ in entries)
    print(f"{GROUPS.get(group, group)}:")
    for name, text in entries:
        print(f"  {name:<{width}}  {text}".rstrip())


@click.command(context_settings={**CONTEXT, "ignore_unknown_options": True})
@click.argument("query")
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, metavar="[OVERRIDES]...")
@click.option("--experiment", default="cifar10_heun", show_default=True, metavar="NAME", help="Generator, sampler, ...")
@click.option("--seeds", metavar="LIST", help="Numbers of the samples, for example 0-99,250.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="The first N samples; 100 without --seeds.")
@click.option("--out", metavar="FOLDER", help="Folder of the files; by default one in drawn/ for each command.")
@click.option("--walk-to", metavar="QUERY", help="Also write an animated walk of the first samples to this condition.")
def draw(
    query: str,
    overrides: tuple[str, ...],
    experiment: str,
    seeds: str | None,
    count: int | None,
    out: str | None,
    walk_to: str | None,
) -> list[str]:
    """Draw pictures for which QUERY holds into a folder: pictures, latents, a table, a contact sheet, a report.

    OVERRIDES are settings, as of any run: generator=portraits sampler=hmc metrics.batch_size=50.
    The same command goes on where it was stopped.
    """
    if seeds is not None and count is not None:
        raise LaceError(f"draw takes --seeds or --count, received --seeds {seeds} and --count {count}: leave one out.")
    if not query.strip():
        raise LaceError("draw needs a query, received an empty one: write for example 'label == ship', or 'anything'.")
    # As text: `query=label` is the file conf/query/label.yaml.
    words = [f'query.text="{query}"' if re.fullmatch(r"[\w,-]+", query) else f"query.text={query}"]
    if seeds is not None:
        words.append(f"seeds={seeds}")
    if count is not None:
        words.append(f"task.count={count}")
    if walk_to is not None:
        words.append(f"walk_to={walk_to}")
    # An experiment of several runs, as of seeds, is one run here.
    run = [f"+experiment={experiment}", "task=draw", "hydra.mode=RUN", *words, *overrides]
    return [*run, f"hydra.run.dir={out or drawn_folder(query, run)}"]


def drawn_folder(query: str, words: Sequence[str]) -> str:
    """Return the folder of a command that names none: the same for the same command.

    Args:
        query: the condition.
        words: all words of the command.

    Example:
        >>> drawn_folder("label == ship", ["task=draw"])
        'drawn/label_ship-8bd2e4d2'
    """
    slug = "_".join(re.findall(r"\w+", query))[:60] or "query"
    return f"drawn/{slug}-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:8]}"


@click.command(context_settings=CONTEXT)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for every machine.")
@click.option("--port", type=int, default=7860, show_default=True, help="Port to listen on; 0 for any that is free.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser of this machine.")
@click.option("--static", type=click.Path(path_type=Path), metavar="FOLDER", help="Write a page without a server.")
@click.option("--seeds", type=int, default=256, show_default=True, help="Number of samples of the page of --static.")
def demo(settings: tuple[str, ...], host: str, port: int, opens: bool, static: Path | None, seeds: int) -> None:
    """Serve a page with sliders: new pictures and edits by attribute, in a browser.

    Without settings it shows the shipped faces. generator=portraits, cifar10 or digits, experiment=NAME,
    classifier=FILE and further settings of a run choose others. --static writes a folder in which the browser computes
    the networks, for any web server, or to open its index.html from the disk.
    """
    if static is not None:
        from .demo.loading import load_page
        from .demo.static import write_static

        print(write_static(load_page(settings), static, seeds))
        return
    from .demo.server import serve

    serve(settings, host, port, opens)


@click.command(context_settings=CONTEXT)
@click.option("--out", default="dashboard.json", show_default=True, metavar="FILE", help="The workspace as JSON.")
@click.option("--entity", metavar="NAME", help="User or team of W&B; with --project the workspace is saved there.")
@click.option("--project", metavar="NAME", help="Project of W&B; lace_lightning by default.")
@click.option("--distance", default="fd_judge", show_default=True, metavar="FIGURE", help="Fréchet distance to show.")
@click.option("--paper", is_flag=True, help="Also log the paper's figures as runs of the group 'paper'.")
@click.option("--domain", default="cifar10", show_default=True, metavar="NAME", help="Figures of the paper to log.")
@click.option("--report", is_flag=True, help="Also save a report with the same panels (needs --entity).")
@click.option("--pictures", metavar="FOLDER", help="Draw the panels of --results into FOLDER, without W&B.")
@click.option("--results", metavar="SWEEP", multiple=True, help="Folder or results.csv of a sweep, for --pictures.")
def dashboard(**options: Any) -> None:
    """Make the workspace of W&B for runs and sweeps: to a file, or to --entity and --project.

    It has a scatter of ACC against the distance, parallel coordinates, importance of settings, training curves, edits,
    tables, a comparer of runs and a browser of pictures.
    """
    from .dashboard import dashboard_command

    dashboard_command(**options)


@click.command("report", context_settings=CONTEXT)
@click.argument("folder", default="outputs", type=click.Path(path_type=Path))
def report_command(folder: Path) -> None:
    """Write the reports of a run, a sweep or all runs of FOLDER (outputs) again, and the page over all runs."""
    from .report.index import rebuild

    for path in rebuild(folder):
        print(path)


@click.command("help", context_settings=CONTEXT)
@click.argument("command", required=False)
def help_command(command: str | None) -> None:
    """Show how to use the program, or one COMMAND."""
    if command is None:
        print(overview())
    elif command not in CLICK:
        raise LaceError(
            f"There is no command '{command}': the commands are {', '.join(CLICK)}.{suggest(command, CLICK)}"
        )
    else:
        run_command(command, ["--help"])


CLICK: dict[str, click.Command] = {
    "draw": draw,
    "demo": demo,
    "convert": convert,
    "models": models,
    "download": download,
    "export": export_command,
    "cache": cache,
    "edit": edit,
    "project": project,
    "dashboard": dashboard,
    "report": report_command,
    "list": list_group,
    "help": help_command,
}


def run_command(name: str, arguments: Sequence[str]) -> list[str] | None:
    """Run a command that starts no experiment, or return the words of the run that the command stands for.

    Args:
        name: name of the command, a key of `CLICK`.
        arguments: words after the name.

    Returns:
        The words of a run for Hydra; None where the command did its work.

    Raises:
        LaceError: for arguments that the command does not take.
        KeyboardInterrupt: when the user stops the command.

    Example:
        >>> try:
        ...     run_command("models", ["now"])
        ... except LaceError as error:
        ...     print(str(error).partition(":")[0])
        models received 'now'
    """
    try:
        result = CLICK[name].main(list(arguments), prog_name=f"lace-lightning {name}", standalone_mode=False)
        # click returns the exit status of --help, a number.
        return result if isinstance(result, list) else None
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as error:
        raise LaceError(
            f"{name} received '{' '.join(arguments)}': {error.format_message().rstrip('.')}; "
            f"'lace-lightning {name} --help' shows its arguments."
        ) from None


def _command(name: str) -> Callable[[Sequence[str]], list[str] | None]:
    return lambda arguments: run_command(name, arguments)


# Commands by the first word of a command line, which run without Hydra, or return the words of a run.
COMMANDS: dict[str, Callable[[Sequence[str]], list[str] | None]] = {name: _command(name) for name in CLICK}
