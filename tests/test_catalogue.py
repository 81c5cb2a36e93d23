"""Published networks: nothing is used unchecked, and what was accepted once stays what it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from lace_lightning import catalogue, cli
from lace_lightning.artifacts import file_sha256, read_json, write_json
from lace_lightning.catalogue import NETWORKS, published, published_names, published_path
from lace_lightning.errors import LaceError
from lace_lightning.generators import StyleGAN2Network, load_generator
from lace_lightning.weights import weight_names

from .foreign_files import nvidia_pickle
from .servers import FileServer, serving

CONFIG = {
    "z_dim": 16,
    "w_dim": 12,
    "c_dim": 0,
    "img_resolution": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
    "synthesis_kwargs": {"channels": {4: 8, 8: 8, 16: 4}},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LACE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("LACE_OFFLINE", raising=False)


@pytest.fixture(scope="module")
def network() -> StyleGAN2Network:
    torch.manual_seed(0)
    return StyleGAN2Network(**CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pickled(network: StyleGAN2Network) -> bytes:
    return nvidia_pickle(network.state_dict(), CONFIG)


@pytest.fixture
def server(pickled: bytes, monkeypatch) -> Iterator[FileServer]:
    """A server in the place of every published network; the FFHQ network has the checksum of what it gives."""
    with serving(pickled) as made:
        known = {"stylegan2_ffhq": {"sha256": hashlib.sha256(pickled).hexdigest(), "bytes": len(pickled)}}
        monkeypatch.setattr(
            catalogue,
            "NETWORKS",
            tuple(
                replace(network, urls=(made.url(network.path.name),), **known.get(network.name, {}))
                for network in NETWORKS
            ),
        )
        yield made


def refused(call, *arguments, **options) -> str:
    with pytest.raises(LaceError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_catalogue_is_complete() -> None:
    assert published_names() == ("stylegan2_ada_cifar10", "stylegan2_ffhq", "stylegan2_metfaces", "stylegan2_afhqcat")
    for network in NETWORKS:
        assert all(url.startswith("https://") for url in network.urls)
        assert network.sha256 is None or len(network.sha256) == 64
        # Copies by other people are of use only where it can be seen that they are copies.
        assert network.sha256 is not None or len(network.urls) == 1
        config = yaml.safe_load((cli.config_folder() / "generator" / f"{network.name}.yaml").read_text())
        assert config["name"] == network.name
        assert config["truncation"] == (1.0 if "cifar10" in network.name else 0.7)
    assert len({network.path for network in NETWORKS}) == len(NETWORKS)


def test_a_known_checksum_downloads_by_itself(server: FileServer, network: StyleGAN2Network, capsys) -> None:
    generator = load_generator("stylegan2_ffhq")
    assert "NVIDIA Source Code License" in capsys.readouterr().err
    torch.testing.assert_close(generator.network.state_dict(), network.state_dict())
    assert load_generator("stylegan2_ffhq").digest == generator.digest
    assert len(server.requests) == 1
    record = read_json(published("stylegan2_ffhq").record)
    assert (record["sha256"], record["checksum"]) == (published("stylegan2_ffhq").sha256, "catalogue")


def test_an_unknown_checksum_is_asked_for(server: FileServer, tmp_path: Path) -> None:
    message = refused(load_generator, "stylegan2_ada_cifar10")
    assert "lace-lightning download stylegan2_ada_cifar10 --trust-first" in message
    assert server.url("cifar10u-cifar-ada-best-fid.pkl") in message
    assert server.requests == []
    published_path("stylegan2_ada_cifar10", trust_first=True)
    load_generator("stylegan2_ada_cifar10")
    assert len(server.requests) == 1
    record = read_json(tmp_path / "downloads" / "cifar10u-cifar-ada-best-fid.pkl.json")
    assert (record["sha256"], record["checksum"]) == (hashlib.sha256(server.data).hexdigest(), "first file")


def test_a_given_checksum_is_required(server: FileServer, pickled: bytes) -> None:
    right, wrong = hashlib.sha256(pickled).hexdigest(), "0" * 64
    assert right in refused(published_path, "stylegan2_afhqcat", wrong)
    assert "64 hexadecimal" in refused(published_path, "stylegan2_afhqcat", right[:-1])
    path = published_path("stylegan2_afhqcat", right.upper())
    assert path.read_bytes() == pickled
    assert "was given" in refused(published_path, "stylegan2_afhqcat", wrong)
    assert published_path("stylegan2_afhqcat", right) == path
    assert "was given" in refused(published_path, "stylegan2_ffhq", wrong)
    os.utime(path)
    published_path("stylegan2_afhqcat")
    assert read_json(published("stylegan2_afhqcat").record)["checksum"] == "given"


def test_a_small_pickle_put_there_by_hand(pickled: bytes, network: StyleGAN2Network) -> None:
    """Without a record it is refused; with one it is a generator."""
    cifar = published("stylegan2_ada_cifar10")
    cifar.path.parent.mkdir()
    cifar.path.write_bytes(pickled)
    message = refused(load_generator, cifar.name)
    assert "by hand" in message
    assert f"lace-lightning download {cifar.name} --trust-first" in message
    write_json(cifar.record, {"sha256": file_sha256(cifar.path)})
    torch.testing.assert_close(load_generator(cifar.name).network.state_dict(), network.state_dict())


def test_a_file_that_changes_is_refused(server: FileServer, monkeypatch) -> None:
    path = published_path("stylegan2_ada_cifar10", trust_first=True)
    stamp = path.stat()
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    for options in ({}, {"trust_first": True}, {"sha256": hashlib.sha256(server.data).hexdigest()}):
        assert "delete it" in refused(published_path, "stylegan2_ada_cifar10", **options)
    assert "delete it" in refused(load_generator, "stylegan2_ada_cifar10")
    path.unlink()
    server.data = bytes(data)
    assert "is required" in refused(published_path, "stylegan2_ada_cifar10", trust_first=True)
    assert not path.exists()
    # An untouched file is not read again, a touched one once.
    data[1000] ^= 1
    path.write_bytes(data)
    reads = []
    monkeypatch.setattr("lace_lightning.download.file_sha256", lambda file: reads.append(file) or file_sha256(file))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    published_path("stylegan2_ada_cifar10")
    assert reads == []
    os.utime(path)
    for _ in range(2):
        published_path("stylegan2_ada_cifar10")
    assert reads == [path]


def test_a_damaged_record_is_refused(server: FileServer) -> None:
    record = published("stylegan2_ada_cifar10").record
    published_path("stylegan2_ada_cifar10", trust_first=True)
    for text in ("{", "[]", '{"sha256": "short"}'):
        record.write_text(text)
        assert "delete it" in refused(published_path, "stylegan2_ada_cifar10")


def test_a_known_file_needs_no_record(server: FileServer, pickled: bytes, monkeypatch) -> None:
    """A folder of an administrator: the file is there and nothing can be written."""
    ffhq = published("stylegan2_ffhq")
    ffhq.path.parent.mkdir()
    ffhq.path.write_bytes(pickled)

    def unwritable(path: Path, record: dict) -> None:
        raise LaceError(f"'{path}' could not be written")

    monkeypatch.setattr(catalogue, "write_json", unwritable)
    monkeypatch.setenv("LACE_OFFLINE", "1")
    assert published_path(ffhq.name) == ffhq.path
    assert server.requests == []
    ffhq.path.unlink()
    assert str(ffhq.path) in refused(published_path, ffhq.name)


def test_names_that_are_not_there() -> None:
    assert "Did you mean 'stylegan2_ffhq'" in refused(load_generator, "stylegan2_fhq")
    assert "shipped weights are" in refused(load_generator, "cifar")
    assert load_generator("cifar10").z_dim == 128


def test_the_command_lines(server: FileServer, tmp_path: Path, capsys) -> None:
    def said(*arguments: str) -> tuple[str, str]:
        with suppress(SystemExit):
            cli.main(arguments)
        return tuple(capsys.readouterr())

    rows = {line.split("  ")[0]: line for line in said("models")[0].splitlines()}
    assert {*weight_names(), *published_names()} <= set(rows)
    assert "not here" in rows["stylegan2_ffhq"]
    assert "NVIDIA Source Code License, non-commercial" in rows["stylegan2_metfaces"]
    assert "shipped" in rows["cifar10_judge"]
    assert "--trust-first" in said("download", "stylegan2_ada_cifar10")[1]
    out, _ = said("download", "stylegan2_ada_cifar10", "--trust-first")
    assert hashlib.sha256(server.data).hexdigest() in out
    assert str(tmp_path / "downloads" / "cifar10u-cifar-ada-best-fid.pkl") in out
    said("download", "stylegan2_afhqcat", "--sha256", hashlib.sha256(server.data).hexdigest())
    published("stylegan2_ffhq").path.write_bytes(server.data)
    text = said("models")[0]
    assert text.count("  here") == 2
    assert text.count("not checked") == 1
    for arguments in (
        ("models", "x"),
        ("download",),
        ("download", "stylegan2_ffhq", "--sha256"),
        ("download", "a", "--trust-first", "b"),
        ("download", "stylegan3"),
    ):
        out, error = said(*arguments)
        assert error.startswith("error: ")
        assert error.count("\n") == 1


def test_a_stopped_download_says_that_it_goes_on(server: FileServer, monkeypatch, capsys) -> None:
    def stopped(*_) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "download", stopped)
    with pytest.raises(SystemExit) as stop:
        cli.main(["download", "stylegan2_ffhq"])
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err
