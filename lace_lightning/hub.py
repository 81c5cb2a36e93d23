"""Weights on the Hugging Face Hub, or in a folder laid out like a repository of it: push and pull with a card."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .artifacts import atomic_path, file_sha256, load_config, read_json, write_json
from .errors import LaceError, in_one_line, quoted

CARD = "card.json"
README = "README.md"
# owner/name, or owner/name@revision.
ADDRESS = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def _hub() -> Any:
    if find_spec("huggingface_hub") is None:
        raise LaceError("An address on the hub needs the package huggingface_hub: pip install 'lace_lightning[hub]'.")
    import huggingface_hub

    return huggingface_hub


def _is_folder(address: str) -> bool:
    """Return whether an address is a folder of this machine: it begins with a dot, a slash or a tilde, or exists."""
    return address.startswith((".", "/", "~")) or Path(address).is_dir()


def _checked(address: str) -> tuple[str, str | None]:
    if not ADDRESS.fullmatch(address):
        raise LaceError(
            f"An address on the hub is owner/name or owner/name@revision, received {quoted(address)}: correct it, or "
            "begin the path of a folder with ./ or /."
        )
    name, _, revision = address.partition("@")
    return name, revision or None


def push(path: str | os.PathLike[str], address: str, *, private: bool = False, message: str = "", **fields: Any) -> str:
    """Publish weights of this program, with a card that tells content, settings, licence and checksum.

    Args:
        path: a safetensors file of this program: a generator, a classifier or a system.
        address: "owner/name" on the hub, which is created where it does not exist, or a folder of this machine.
        private: whether a repository that is created is private.
        message: subject of the commit on the hub; by default it names the file.
        fields: further entries of the card, such as licence="MIT" and what="a classifier of hats".

    Returns:
        The address of the commit, or the path of the folder.

    Raises:
        LaceError: for a file that is not of this program, a wrong address, a missing package, and whatever the hub
            refuses.

    Example:
        >>> import tempfile
        >>> from lace_lightning.weights import weight_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = push(weight_path("cifar10_classifier"), f"{folder}/mine", licence="MIT")
        ...     sorted(path.name for path in Path(folder, "mine").iterdir())
        ['README.md', 'card.json', 'cifar10_classifier.safetensors']
    """
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        raise LaceError(f"A safetensors file of this program was required, received '{path}': correct the path.")
    config = load_config(path)
    beside = path.with_suffix(".json")
    card = {**(read_json(beside) if beside.is_file() else {}), **fields}
    card |= {"file": path.name, "kind": config.get("kind"), "bytes": path.stat().st_size, "sha256": file_sha256(path)}
    if _is_folder(address):
        folder = Path(address).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder, path, card)
        return str(folder)
    name, revision = _checked(address)
    hub = _hub()
    with tempfile.TemporaryDirectory() as staged:
        _fill(Path(staged), path, card)
        try:
            hub.create_repo(name, private=private, exist_ok=True)
            made = hub.upload_folder(
                repo_id=name,
                folder_path=staged,
                revision=revision,
                commit_message=message or f"Add {path.name}",
            )
        except Exception as error:
            raise _refused(name, error) from error
    return str(made)


def _fill(folder: Path, path: Path, card: dict[str, Any]) -> None:
    with atomic_path(folder / path.name) as temporary:
        shutil.copyfile(path, temporary)
    write_json(folder / CARD, card)
    with atomic_path(folder / README) as temporary:
        temporary.write_text(_readme(path.name, card), encoding="utf-8")


def _readme(name: str, card: dict[str, Any]) -> str:
    """Return the card as the hub shows it: a head that the hub reads, and a table."""
    licence = str(card.get("licence") or "unknown").split(" (")[0]
    head = ["---", "library_name: lace_lightning", f"license: {licence.lower()}", "---", "", f"# {name}", ""]
    rows = [f"| {key} | {' '.join(str(value).split()).replace('|', chr(92) + '|')} |" for key, value in card.items()]
    use = ["", "```python", "import lace_lightning as lace", "", 'path = lace.pull("owner/name")', "```", ""]
    return "\n".join([*head, str(card.get("what") or ""), "", "| | |", "|---|---|", *rows, *use])


def pull(address: str, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the file of weights that `push` published, after a comparison of its checksum with that of its card.

    Args:
        address: "owner/name" or "owner/name@revision" on the hub, or a folder that `push` wrote.
        folder: where files of the hub are kept; None for the hub's own cache.

    Returns:
        The path of the safetensors file, for `load_classifier`, `load_generator` and `task.weights`.

    Raises:
        LaceError: for a wrong address, a missing package or file, and another checksum than that of the card.

    Example:
        >>> import tempfile
        >>> from lace_lightning.weights import weight_path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pull(push(weight_path("cifar10_classifier"), folder)).name
        'cifar10_classifier.safetensors'
    """
    if _is_folder(address):
        source = Path(address).expanduser()
        card = _card(source / CARD)
        return _verified(source / card["file"], card, address)
    name, revision = _checked(address)
    hub = _hub()

    def fetch(file: str) -> Path:
        try:
            return Path(hub.hf_hub_download(name, file, revision=revision, local_dir=folder))
        except Exception as error:
            raise _refused(name, error) from error

    card = _card(fetch(CARD))
    return _verified(fetch(card["file"]), card, address)


def _card(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise LaceError(f"A card ({CARD}) was required in '{path.parent}' and is not there: push the weights first.")
    card = read_json(path)
    file = card.get("file") if isinstance(card, dict) else None
    # The name comes from a file of somebody else, and must not lead out of the folder.
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
        raise LaceError(f"The card '{path}' must name a safetensors file and names {quoted(str(file))}: push it again.")
    return {**card, "file": file}


def _verified(path: Path, card: dict[str, Any], address: str) -> Path:
    if not path.is_file():
        raise LaceError(f"The file '{path.name}' of '{address}' was required and is not there: push it again.")
    received, expected = file_sha256(path), str(card.get("sha256"))
    if received != expected:
        raise LaceError(
            f"The file '{path.name}' of '{address}' must have the sha256 {expected[:16]}… of its card and has "
            f"{received[:16]}…: pull it again, or ask its publisher."
        )
    return path


def _refused(name: str, error: Exception) -> LaceError:
    return LaceError(
        f"The hub did not answer for '{name}' ({type(error).__name__}: {in_one_line(error, 140)}): check the address, "
        "the network, and 'hf auth login'."
    )
