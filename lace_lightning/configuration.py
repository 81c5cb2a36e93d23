"""The folder of YAML files and the descriptions of its groups."""

from __future__ import annotations

from pathlib import Path

from .errors import LaceError


def config_folder() -> Path:
    """Return the folder of YAML files.

    Inside the package (a wheel), or beside it (a checkout or an editable install).
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return folder
    raise LaceError(
        f"The configuration was required in '{package / 'conf'}' and is not there: install the package again."
    )


def describe(group: str) -> list[tuple[str, str]]:
    """Return (name, first comment line) of every file of a configuration group."""
    result = []
    for path in sorted((config_folder() / group).glob("*.yaml")):
        lines = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        result.append((path.stem, next((line for line in lines if not line.startswith("@")), "")))
    return result
