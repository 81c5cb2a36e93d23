"""Generators out of other programs' files: the recorded pictures come out, and nothing in a file runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lace_lightning import cli
from lace_lightning.errors import LaceError
from lace_lightning.generators import StyleGAN2Network, check_generator, convert, load_generator, read_generator

from ..foreign_files import discriminator_pickle, nvidia_pickle, rosinality_file, rosinality_state, tensorflow_pickle
from .test_stylegan2_networks import FILES, load

CONFIG = {
    "z_dim": 16,
    "w_dim": 12,
    "c_dim": 0,
    "img_resolution": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.02},
    "synthesis_kwargs": {"channels": {4: 8, 8: 8, 16: 4}, "conv_clamp": 2.0},
}


def tiny(**changes) -> tuple[StyleGAN2Network, dict]:
    torch.manual_seed(0)
    config = {**CONFIG, **changes}
    network = StyleGAN2Network(**config).eval().requires_grad_(False)
    for name, tensor in network.state_dict().items():
        if name.endswith(("noise_strength", "bias", "w_avg")):
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return network, config


def same(network: StyleGAN2Network, other: StyleGAN2Network, c: torch.Tensor | None = None, atol: float = 1e-5) -> None:
    z = torch.randn(3, network.z_dim)
    for mode in ("const", "none"):
        torch.testing.assert_close(other(z, c, mode), network(z, c, mode), atol=atol, rtol=0)
    torch.testing.assert_close(other.mapping.w_avg, network.mapping.w_avg)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["nvidia", "state"])
def test_the_recorded_pictures_come_out(shared_dir: Path, tmp_path: Path, name: str, kind: str) -> None:
    network, recorded = load(shared_dir, name)
    state = {
        key: value
        for key, value in network.state_dict().items()
        if key in {k[6:] for k in recorded if k.startswith("param/")}
    }
    config = {
        "z_dim": network.z_dim,
        "w_dim": network.w_dim,
        "c_dim": network.c_dim,
        "img_channels": 3,
        "img_resolution": network.synthesis.img_resolution,
        "synthesis_kwargs": {},
        "mapping_kwargs": {"num_layers": network.mapping.num_layers, "lr_multiplier": 0.01},
    }
    file = tmp_path / "network.pkl"
    if kind == "nvidia":
        file.write_bytes(nvidia_pickle(state, config))
    else:
        torch.save({"G_ema": state}, file)
    read = read_generator(file).network()
    w = read.mapping(recorded["z"], recorded["c"])
    torch.testing.assert_close(w, recorded["w_psi1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(read.synthesis(read.broadcast(w)), recorded["img_const_psi1"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_a_pickle(tmp_path: Path, protocol: int) -> None:
    network, config = tiny()
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(network.state_dict(), config, protocol))
    checkpoint = read_generator(tmp_path / "n.pkl")
    assert checkpoint.config["mapping_kwargs"]["lr_multiplier"] == pytest.approx(0.02)
    assert checkpoint.config["synthesis_kwargs"]["conv_clamp"] == 2.0
    same(network, checkpoint.network())
    doubled = read_generator(tmp_path / "n.pkl", which="G").state["synthesis.b4.const"]
    assert torch.equal(doubled, network.state_dict()["synthesis.b4.const"] * 2)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_the_tensorflow_layout(tmp_path: Path, architecture: str) -> None:
    network, _ = tiny(
        mapping_kwargs={"num_layers": 2},
        synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}, "architecture": architecture},
    )
    (tmp_path / "n.pkl").write_bytes(tensorflow_pickle(network.state_dict()))
    checkpoint = read_generator(tmp_path / "n.pkl")
    assert checkpoint.layout == "stylegan2-tensorflow"
    same(network, checkpoint.network())


@pytest.mark.parametrize("name", ["t", "r"])
def test_stylegan3_out_of_a_pickle_and_converted(tmp_path: Path, name: str) -> None:
    with np.load(Path(__file__).parent / "data" / f"stylegan3_{name}.npz", allow_pickle=False) as file:
        arguments = json.loads(str(file["init_json"]))
        recorded = {key: torch.from_numpy(file[key]) for key in file.files if key != "init_json"}
    state = {key[6:]: value for key, value in recorded.items() if key.startswith("param/")}
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, arguments))
    card = convert(tmp_path / "n.pkl", tmp_path / "n.safetensors")
    assert card["layout"] == "stylegan3"
    condition = 0 if arguments["c_dim"] else None
    for file in ("n.pkl", "n.safetensors"):
        generator = load_generator(tmp_path / file, condition=condition)
        network = generator.network
        w = network.mapping(recorded["z"], recorded.get("c"))
        torch.testing.assert_close(network.synthesis(network.broadcast(w)), recorded["image"], atol=1e-4, rtol=0)
        check_generator(generator)
        z = generator.prior(2)
        assert torch.equal(load_generator(tmp_path / file, condition=condition, precision="auto")(z), generator(z))


@pytest.mark.parametrize("legacy", [False, True])
def test_rosinalitys_layout(tmp_path: Path, legacy: bool) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    (tmp_path / "n.pt").write_bytes(rosinality_file(network.state_dict(), legacy))
    same(network, read_generator(tmp_path / "n.pt").network())


def test_what_rosinalitys_file_leaves_out_is_said(tmp_path: Path) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    state = {
        name: value for name, value in rosinality_state(network.state_dict()).items() if not name.startswith("noises")
    }
    torch.save(state, tmp_path / "n.pt")
    checkpoint = read_generator(tmp_path / "n.pt")
    assert "mean w: over 10000 latents" in checkpoint.assumed
    assert sum(text.startswith("noise of") for text in checkpoint.assumed) == 5
    w = network.mapping(torch.randn(20_000, 16)).mean(0)
    assert (checkpoint.network().mapping.w_avg - w).abs().max() < 0.05
    state["convs.0.conv.blur.kernel"] = torch.ones(4, 4)
    torch.save(state, tmp_path / "n.pt")
    with pytest.raises(LaceError, match="low-pass filter"):
        read_generator(tmp_path / "n.pt")


def test_safetensors_of_other_programs(tmp_path: Path) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    save_file(dict(network.state_dict()), tmp_path / "n.safetensors")
    same(network, load_generator(tmp_path / "n.safetensors").network)


def test_convert_writes_the_same_generator_and_a_card(tmp_path: Path, capsys) -> None:
    network, config = tiny(c_dim=3)
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(network.state_dict(), config))
    cli.main(["convert", str(tmp_path / "n.pkl"), str(tmp_path / "out.safetensors")])
    printed = capsys.readouterr().out
    card = json.loads((tmp_path / "out.json").read_text())
    assert card["sha256"] in printed
    assert card["layout"] == "stylegan2-ada-pytorch"
    generator = load_generator(tmp_path / "out.safetensors", condition=1)
    same(network, generator.network, torch.eye(3))
    check_generator(generator)
    with pytest.raises(LaceError, match="conditional on 3 numbers"):
        load_generator(tmp_path / "n.pkl")
    again = convert(tmp_path / "n.pkl", tmp_path / "again.safetensors")
    assert again["sha256"] == card["sha256"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_bytes(b"not a checkpoint"), "damaged or something else"),
        (lambda path: torch.save({"epoch": 3}, path), "must hold"),
        (lambda path: torch.save(torch.ones(3), path), "holds a Tensor"),
        (lambda path: torch.save({"a": torch.ones(3)}, path), "wrap another network"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "not on the list of allowed names"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, capsys, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "n.pt")
    with pytest.raises(LaceError, match=words):
        read_generator(tmp_path / "n.pt")
    with pytest.raises(SystemExit):
        cli.main(["convert", str(tmp_path / "n.pt"), str(tmp_path / "out.safetensors")])
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("ffhq/network.pkl", b"N.")
    return stream.getvalue()


PAGE = b"<!DOCTYPE html>\n<html><head><title>Quota exceeded</title></head></html>"
AGAIN = r"download it again\.$"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda whole: discriminator_pickle(),
            r"must hold a generator \(G_ema\) and holds D: give the file of a generator\.$",
        ),
        (
            lambda whole: discriminator_pickle(alone=True),
            r"holds a network of class 'Discriminator': give its generator \(G_ema\)\.$",
        ),
        (lambda whole: whole[:-1], r"it ends in the middle: " + AGAIN),
        (lambda whole: whole[: len(whole) // 2], r"it ends in the middle: " + AGAIN),
        (lambda whole: whole[:2], r"it ends in the middle: " + AGAIN),
        (lambda whole: PAGE, r"the file begins with <!DOCTYPE: a web page was saved instead of the file: " + AGAIN),
        (
            lambda whole: b"\xef\xbb\xbf\r\n" + PAGE.lower(),
            "begins with <!doctype: a web page was saved instead of the file: " + AGAIN,
        ),
        (lambda whole: b"<html>\n", "begins with <html: a web page was saved instead of the file: " + AGAIN),
        (
            lambda whole: b"<?xml version='1.0'?><Error/>",
            r"begins with <\?xml: a web page was saved instead of the file: " + AGAIN,
        ),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a Git LFS pointer was saved instead of the file: run git lfs pull, or " + AGAIN,
        ),
        (
            lambda whole: zipped(),
            r"it is a ZIP archive that PyTorch did not write: unpack it and give the file inside\.$",
        ),
        (lambda whole: zipped()[:-30], r"it ends in the middle: " + AGAIN),
        (lambda whole: b"", r"it is empty: " + AGAIN),
    ],
)
def test_what_came_instead_of_a_file_is_said(tmp_path: Path, make: Callable[[bytes], bytes], words: str) -> None:
    network, config = tiny()
    (tmp_path / "n.pkl").write_bytes(make(nvidia_pickle(network.state_dict(), config)))
    with pytest.raises(LaceError, match=words) as caught:
        load_generator(tmp_path / "n.pkl")
    assert "\n" not in str(caught.value)
    assert ". " not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_cut_checkpoint_is_refused(tmp_path: Path, legacy: bool) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    whole = rosinality_file(network.state_dict(), legacy)
    for cut in (1, len(whole) // 4, len(whole) // 2, len(whole) - 100):
        (tmp_path / "n.pt").write_bytes(whole[:-cut])
        with pytest.raises(LaceError, match=r"(it ends in the middle: download it|it is damaged .*: get it) again\.$"):
            load_generator(tmp_path / "n.pt")


@pytest.mark.parametrize(
    "make", [lambda whole: whole[:-1], lambda whole: whole[:100], lambda whole: PAGE, lambda whole: b""]
)
def test_damaged_safetensors_of_other_programs(tmp_path: Path, make: Callable[[bytes], bytes]) -> None:
    network, _ = tiny()
    save_file(dict(network.state_dict()), tmp_path / "n.safetensors")
    (tmp_path / "n.safetensors").write_bytes(make((tmp_path / "n.safetensors").read_bytes()))
    with pytest.raises(LaceError, match="must be a safetensors file, and") as caught:
        load_generator(tmp_path / "n.safetensors")
    assert "\n" not in str(caught.value)


def test_tensors_in_half_precision_are_widened_and_whole_numbers_refused(tmp_path: Path) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    state = network.state_dict()
    torch.save({name: value.half() for name, value in state.items()}, tmp_path / "n.pt")
    read = read_generator(tmp_path / "n.pt").network()
    assert {tensor.dtype for tensor in read.state_dict().values()} == {torch.float32}
    z = torch.randn(3, 16)
    torch.testing.assert_close(read(z), network(z), atol=0.02, rtol=0)
    torch.save({**state, "synthesis.b4.const": state["synthesis.b4.const"].long()}, tmp_path / "n.pt")
    with pytest.raises(LaceError, match=r"'synthesis\.b4\.const' in the file is of int64"):
        read_generator(tmp_path / "n.pt").network()


@pytest.mark.parametrize(("which", "scale"), [(None, 1), ("other", 2), ("net", 3)])
def test_a_state_dict_under_a_name(tmp_path: Path, which: str | None, scale: int) -> None:
    network, _ = tiny(mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channels": {4: 8, 8: 8, 16: 4}})
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save(
        {
            "net": {"model": {name: value * 3 for name, value in state.items()}},
            "epoch": 3,
            "g_ema": state,
            "other": {name: value * 2 for name, value in state.items()},
        },
        tmp_path / "n.pt",
    )
    const = read_generator(tmp_path / "n.pt", which).state["synthesis.b4.const"]
    assert torch.equal(const, network.state_dict()["synthesis.b4.const"] * scale)


def test_a_full_disk_leaves_nothing_under_the_final_name(tmp_path: Path, monkeypatch) -> None:
    network, config = tiny()
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(network.state_dict(), config))

    def full(tensors, path: str, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(LaceError, match="No space left on device"):
        convert(tmp_path / "n.pkl", tmp_path / "out.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"n.pkl"}
