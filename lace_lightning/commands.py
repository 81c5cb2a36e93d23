"""Commands that start no experiment: conversion, lists of networks and configurations, downloads."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import click

from . import __version__
from .configuration import GROUPS, config_folder, describe, overview
from .errors import LaceError, suggest


def version() -> str:
    """Return the versions of the program, of Python and of torch, without importing torch."""
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = "not installed"
    return f"lace_lightning {__version__}, Python {platform.python_version()}, torch {torch}"


CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(context_settings=CONTEXT)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT.safetensors")
@click.argument("which", required=False)
@click.option("--lr-multiplier", type=float, help="learning rate multiplier of the mapping, where the file has none")
def convert(source: str, target: str, which: str | None, lr_multiplier: float | None) -> None:
    """Write the generator of another program's file as safetensors.

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
    """List the networks: shipped, published by others, and which of them are here."""
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
    return "" if count is None else f"{count / 1e6:.1f} MB" if count < 1e8 else f"{count / 1e6:.0f} MB"


@click.command(context_settings=CONTEXT)
@click.argument("name")
@click.option("--sha256", metavar="HEX", help="The checksum that the file must have.")
@click.option(
    "--trust-first", is_flag=True, help="Take the first file as it is, and require its checksum from then on."
)
def download(name: str, sha256: str | None, trust_first: bool) -> None:
    """Download a published generator, or check a file that was put in its place by hand."""
    if sha256 is not None and trust_first:
        raise LaceError("download needs NAME and at most one of --sha256 HEX and --trust-first: leave one out.")
    from .artifacts import file_sha256
    from .catalogue import published, published_path

    path = published_path(name, sha256, trust_first)
    print(
        f"{published(name).what}, {published(name).licence}\n{path}: {_size(path.stat().st_size)}, sha256 "
        f"{file_sha256(path)}"
    )


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


@click.command("help", context_settings=CONTEXT)
@click.argument("command", required=False)
def help_command(command: str | None) -> None:
    """Show how the program is used, or how a COMMAND is."""
    if command is None:
        print(overview())
    elif command not in CLICK:
        raise LaceError(
            f"There is no command '{command}': the commands are {', '.join(CLICK)}.{suggest(command, CLICK)}"
        )
    else:
        run_command(command, ["--help"])


CLICK: dict[str, click.Command] = {
    "convert": convert,
    "models": models,
    "download": download,
    "list": list_group,
    "help": help_command,
}


def run_command(name: str, arguments: Sequence[str]) -> None:
    """Run a command. Raises LaceError for arguments that it does not take."""
    try:
        CLICK[name].main(list(arguments), prog_name=f"lace-lightning {name}", standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as error:
        raise LaceError(
            f"{name} received '{' '.join(arguments)}': {error.format_message().rstrip('.')}; "
            f"'lace-lightning {name} --help' shows what it needs."
        ) from None


def _command(name: str) -> Callable[[Sequence[str]], None]:
    return lambda arguments: run_command(name, arguments)


# The first word of a command line that Hydra never sees.
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {name: _command(name) for name in CLICK}
