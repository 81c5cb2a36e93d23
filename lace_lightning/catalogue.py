"""Catalogue of published generators: addresses, checksums, licences, and paths of downloaded files."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .artifacts import read_json, write_json
from .cache import cache_folder
from .download import download
from .errors import LaceError, suggest

NVIDIA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained"
LICENCE = "NVIDIA Source Code License, non-commercial"


@dataclass(frozen=True)
class Published:
    """An entry of the catalogue: a published network and the addresses of its file.

    Args:
        name: name of the network.
        what: description in one line.
        urls: addresses of the same file (https), tried in this order. The last part of the first one is its name here.
        sha256: checksum of the file, 64 hexadecimal digits; None where none was published.
        bytes: exact size of the file in bytes; None where it is unknown.
        size: approximate size for display, such as "382 MB"; None where it is unknown.
        licence: licence of the weights.

    Example:
        >>> entry = Published("tiny", "StyleGAN2, 8x8", ("https://example.org/folder/tiny.pkl",))
        >>> entry.path.name, entry.record.name
        ('tiny.pkl', 'tiny.pkl.json')
    """

    name: str
    what: str
    urls: tuple[str, ...]
    sha256: str | None = None
    bytes: int | None = None
    size: str | None = None
    licence: str = LICENCE

    @property
    def path(self) -> Path:
        """The path of the downloaded file, whether it exists or not."""
        return downloads_folder() / self.urls[0].rsplit("/", 1)[1]

    @property
    def record(self) -> Path:
        """The path of the JSON file with the checksum, size and time of the file when it was accepted."""
        return self.path.with_name(f"{self.path.name}.json")


NETWORKS = (
    Published(
        "stylegan2_ada_cifar10",
        "StyleGAN2-ADA for CIFAR-10, 32x32, unconditional",
        (f"{NVIDIA}/paper-fig11b-cifar10/cifar10u-cifar-ada-best-fid.pkl",),
    ),
    Published(
        "stylegan2_ffhq",
        "StyleGAN2 (config F) for FFHQ faces, 1024x1024",
        (
            f"{NVIDIA}/ffhq.pkl",
            "https://huggingface.co/DragGan/DragGan-Models/resolve/refs%2Fpr%2F3/stylegan2-ffhq1024x1024.pkl",
            "https://huggingface.co/spaces/edemana/my-stylegan-model/resolve/da64592673081d7d05abe1437c383f5ad91bf529/ffhq.pkl",
        ),
        # Required by several programs that download the first address; both copies state the same checksum.
        "a205a346e86a9ddaae702e118097d014b7b8bd719491396a162cca438f2f524c",
        381_624_121,
    ),
    Published(
        "stylegan2_metfaces",
        "StyleGAN2-ADA for MetFaces paintings, 1024x1024, begun from FFHQ",
        (
            f"{NVIDIA}/metfaces.pkl",
            "https://huggingface.co/aaronb/StyleGAN2-pkl/resolve/7d9a80d433e2a63592e73622d3606d600f1fd46e/ada/metfaces.pkl",
            "https://huggingface.co/spaces/adirik/stylemc-demo/resolve/1c472db80f268413f095f52b30a2494b83086c19/pretrained/metfaces.pkl",
        ),
        # Stated by both copies, which were uploaded by different people.
        "880a460d011a3696c088f58f5844b44271b17903963f2671f96f72dfbce5f76f",
        size="382 MB",
    ),
    Published("stylegan2_afhqcat", "StyleGAN2-ADA for AFHQ cats, 512x512", (f"{NVIDIA}/afhqcat.pkl",)),
)


def downloads_folder() -> Path:
    """Return the folder of downloaded files: `downloads` in LACE_CACHE, by default ~/.cache/lace_lightning.

    Example:
        >>> downloads_folder().name
        'downloads'
    """
    return cache_folder() / "downloads"


def published_names() -> tuple[str, ...]:
    """Return the names of the published networks.

    Example:
        >>> "stylegan2_ffhq" in published_names()
        True
    """
    return tuple(network.name for network in NETWORKS)


def published(name: str) -> Published:
    """Return the entry of a published network.

    Args:
        name: a name of `published_names`.

    Raises:
        LaceError: for an unknown name.

    Example:
        >>> published("stylegan2_ffhq").bytes
        381624121
    """
    for network in NETWORKS:
        if network.name == name:
            return network
    raise LaceError(
        f"The published networks are {', '.join(published_names())}, received '{name}'."
        f"{suggest(name, published_names())}"
    )


def published_path(name: str, sha256: str | None = None, trust_first: bool = False) -> Path:
    """Return the path of a published network whose checksum was verified, and download the file where it is missing.

    Where the catalogue has no checksum, the first call needs `sha256` or `trust_first`. The checksum of the accepted
    file is recorded beside the file and is required from then on. A file that was put there by hand is treated alike.
    A file that still has its recorded size and time is not read again.

    Args:
        name: a name of `published_names`.
        sha256: required checksum, 64 hexadecimal digits; None takes that of the catalogue or of the record.
        trust_first: accept the first file without a checksum where none is known.

    Returns:
        The path of the file.

    Raises:
        LaceError: for an unknown name, a malformed or contradictory `sha256`, a file with another checksum, a network
            without a known checksum, and in the cases of `download`.

    Example:
        >>> import os
        >>> import tempfile
        >>> from unittest import mock
        >>> with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, LACE_CACHE=cache):
        ...     path = published("stylegan2_afhqcat").path
        ...     path.parent.mkdir()
        ...     _ = path.write_bytes(b"put there by hand")
        ...     published_path("stylegan2_afhqcat", trust_first=True).name
        'afhqcat.pkl'
    """
    network, record = published(name), _record(published(name))
    required = network.sha256 or record.get("sha256")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise LaceError(f"A sha256 has 64 hexadecimal digits, received '{sha256}': copy it again.")
    if None not in (sha256, required) and sha256 != required:
        raise LaceError(
            f"The network '{name}' must have the sha256 {required} "
            f"({'catalogue' if network.sha256 else network.record}), and {sha256} was given: leave it out."
        )
    required = required or sha256
    here = network.path.is_file()
    if required is None and not trust_first:
        raise LaceError(
            f"The network '{name}' {'was put here by hand' if here else 'is not here'} and its checksum is not known: "
            f"run 'lace-lightning download {name} --trust-first' to take {network.path if here else network.urls[0]} "
            f"as it is, or --sha256 HEX instead to check it"
            f"{'' if here else f', or first put that file at {network.path}'}."
        )
    if (
        here
        and required == record.get("sha256")
        and _stamp(network.path) == {key: record.get(key) for key in ("bytes", "mtime_ns")}
    ):
        return network.path
    if not here:
        print(f"{name}: {network.what} ({network.licence})", file=sys.stderr)
    received = download(network.urls, network.path, required, network.bytes)
    origin = "catalogue" if network.sha256 else record.get("checksum") or ("given" if sha256 else "first file")
    try:
        write_json(network.record, {"name": name, "sha256": received, "checksum": origin, **_stamp(network.path)})
    except LaceError:
        # A file with a checksum of the catalogue may lie in a read-only folder; it is then read again every time.
        if network.sha256 is None:
            raise
    return network.path


def _stamp(path: Path) -> dict[str, int]:
    """Return the size and the time of a file, by which a change is noticed."""
    return {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns}


def _record(network: Published) -> dict[str, Any]:
    """Return the record of an accepted file, {} where there is none."""
    if not network.record.is_file():
        return {}
    record = read_json(network.record)
    if not isinstance(record, dict) or not re.fullmatch(r"[0-9a-f]{64}", str(record.get("sha256"))):
        raise LaceError(
            f"'{network.record}' must hold the checksum of '{network.path.name}' and does not: delete it and run again."
        )
    return record
