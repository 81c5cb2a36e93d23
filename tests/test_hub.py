"""Weights are pushed with a card and pulled with a check of their checksum, from a folder and from a hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lace_lightning import hub, load_classifier
from lace_lightning.errors import LaceError
from lace_lightning.weights import weight_path


def test_a_folder_holds_what_was_pushed(tmp_path: Path) -> None:
    source = weight_path("cifar10_classifier")
    pulled = hub.pull(hub.push(source, str(tmp_path / "mine"), note="a|b"))
    assert pulled.read_bytes() == source.read_bytes()
    assert load_classifier(pulled).schema.names == ("label",)
    text = (tmp_path / "mine" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: lace_lightning\nlicense: mit\n---\n")
    assert "| note | a\\|b |" in text


def test_another_checksum_and_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    folder = Path(hub.push(weight_path("cifar10_classifier"), str(tmp_path / "mine")))
    file = folder / "cifar10_classifier.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(LaceError, match="must have the sha256"):
        hub.pull(str(folder))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "file": "../secret.safetensors"}))
    with pytest.raises(LaceError, match="must name a safetensors file"):
        hub.pull(str(folder))
    with pytest.raises(LaceError, match="owner/name"):
        hub.pull("not an address")


def test_the_hub_is_given_file_card_and_readme(tmp_path: Path, monkeypatch) -> None:
    client = pytest.importorskip("huggingface_hub")
    store = tmp_path / "hub"

    def upload(repo_id: str, folder_path: str, **_: object) -> str:
        shutil.copytree(folder_path, store / repo_id)
        return f"commit of {repo_id}"

    def fetch(repo_id: str, file: str, **_: object) -> str:
        if not (store / repo_id / file).is_file():
            raise FileNotFoundError(file)
        return str(store / repo_id / file)

    monkeypatch.setattr(client, "create_repo", lambda *_, **__: None)
    monkeypatch.setattr(client, "upload_folder", upload)
    monkeypatch.setattr(client, "hf_hub_download", fetch)
    assert hub.push(weight_path("cifar10_classifier"), "somebody/hats") == "commit of somebody/hats"
    assert sorted(path.name for path in (store / "somebody/hats").iterdir()) == [
        "README.md",
        "card.json",
        "cifar10_classifier.safetensors",
    ]
    assert hub.pull("somebody/hats").read_bytes() == weight_path("cifar10_classifier").read_bytes()
    with pytest.raises(LaceError, match="The hub did not answer for 'somebody/caps'"):
        hub.pull("somebody/caps")
