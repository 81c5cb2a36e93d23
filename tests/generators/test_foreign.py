"""Files of others: what is chosen in them, built as they say, assumed, or refused in one sentence."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lace_lightning import cli
from lace_lightning.artifacts import save_tensors
from lace_lightning.errors import LaceError
from lace_lightning.generators import (
    StyleGAN2Generator,
    StyleGAN2Network,
    StyleGAN3Network,
    convert,
    load_generator,
    read_generator,
)
from lace_lightning.generators.stylegan2 import save_network

from ..foreign_files import nested_modules, nvidia_pickle, rosinality_file, rosinality_state, tensorflow_pickle

CONFIG: dict[str, Any] = {
    "z_dim": 16,
    "w_dim": 12,
    "c_dim": 0,
    "img_resolution": 16,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.01},
    "synthesis_kwargs": {"channels": {4: 8, 8: 8, 16: 4}},
}
SIZES = {"z_dim": 4, "c_dim": 0, "w_dim": 4, "img_resolution": 16, "img_channels": 3}
LAYERS = {"channel_base": 64, "channel_max": 4, "num_layers": 3, "margin_size": 2}


def tiny(synthesis: dict[str, Any] | None = None, mapping: dict[str, Any] | None = None) -> StyleGAN2Network:
    torch.manual_seed(0)
    network = StyleGAN2Network(
        **{
            **CONFIG,
            "synthesis_kwargs": {**CONFIG["synthesis_kwargs"], **(synthesis or {})},
            "mapping_kwargs": {**CONFIG["mapping_kwargs"], **(mapping or {})},
        }
    )
    for name, tensor in network.state_dict().items():
        if name.endswith(("noise_strength", "w_avg")):
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return network.eval().requires_grad_(False)


def tiny3(**arguments: Any) -> StyleGAN3Network:
    torch.manual_seed(0)
    return StyleGAN3Network(4, 4, 0, 16, 3, synthesis_kwargs={**LAYERS, **arguments}).eval().requires_grad_(False)


def is_same(first: StyleGAN2Network, second: Any) -> bool:
    z = torch.randn(2, first.z_dim)
    return torch.allclose(first(z), second(z), atol=1e-5)


def refused(path: Path, words: str, **options: Any) -> str:
    """Return the sentence that refuses a file: one line, printable, short, and in time."""
    with pytest.raises(LaceError, match=words) as caught:
        read_generator(path, **options).network()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 700
    return message


# ---------------------------------------------------------------------------------------------- what is chosen


def times(state: dict[str, Tensor], factor: float, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: value * factor for name, value in state.items()}


FILES: dict[str, Any] = {
    "model and its average": lambda s: {"model": times(s, 2), "model_ema": s},
    "state_dict and its average": lambda s: {"state_dict": times(s, 2), "state_dict_ema": s},
    "average by another word": lambda s: {"generator": times(s, 2), "generator_swa": s},
    "camel case": lambda s: {"model": times(s, 2), "modelEma": s},
    "an unusual key": lambda s: {"epoch": 3, "netG_state_dict": s, "netD_state_dict": {"x": torch.ones(2)}},
    "tables in tables": lambda s: {"networks": {"gen": {"state_dict": s}}},
    "torch.compile": lambda s: times(s, 1, "_orig_mod."),
    "wrappers of wrappers": lambda s: {"model": times(s, 1, "module._orig_mod.gen.")},
    "prefixes in one table": lambda s: times(s, 1, "gen.") | {"disc.weight": torch.ones(3)},
    "average behind a prefix": lambda s: {"state_dict": times(s, 2, "generator.") | times(s, 1, "generator_ema.")},
    "AveragedModel": lambda s: times(s, 1, "module.") | {"n_averaged": torch.tensor(3)},
    "parallel inside": lambda s: {
        name.replace("synthesis.", "synthesis.module.").replace("mapping.", "mapping.module."): value
        for name, value in s.items()
    },
}


@pytest.mark.parametrize("name", FILES)
def test_the_average_is_taken_behind_any_key_and_prefix(tmp_path: Path, name: str) -> None:
    network = tiny()
    torch.save(FILES[name](dict(network.state_dict())), tmp_path / "n.pth.tar")
    checkpoint = read_generator(tmp_path / "n.pth.tar")
    assert is_same(network, checkpoint.network())
    assert ("average of the weights" in checkpoint.taken) == ("average" in name or name == "camel case")


def test_what_was_taken_is_said(tmp_path: Path, capsys) -> None:
    network = tiny()
    state = dict(network.state_dict())
    torch.save({"model": times(state, 2), "model_ema": state}, tmp_path / "n.pt")
    words = "model_ema, the average of the weights, and not model"
    with pytest.warns(UserWarning, match=words):
        load_generator(tmp_path / "n.pt")
    with pytest.warns(UserWarning, match="model, and not model_ema"):
        raw = load_generator(tmp_path / "n.pt", checkpoint_key="model").network
    assert torch.equal(raw.synthesis.b4.const, network.synthesis.b4.const * 2)
    cli.main(["convert", str(tmp_path / "n.pt"), str(tmp_path / "o.safetensors")])
    assert f"taken: {words}\n" in capsys.readouterr().out
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, CONFIG))
    assert convert(tmp_path / "n.pkl", tmp_path / "o.safetensors")["taken"] == "G_ema"


def test_two_networks_between_which_nothing_decides(tmp_path: Path) -> None:
    state = dict(tiny().state_dict())
    torch.save({"first": state, "second": times(state, 2)}, tmp_path / "n.pt")
    refused(tmp_path / "n.pt", r"must hold one generator and holds first, second: name one of these \(checkpoint_key\)")
    assert (
        read_generator(tmp_path / "n.pt", "second").state["synthesis.b4.const"].equal(state["synthesis.b4.const"] * 2)
    )
    refused(tmp_path / "n.pt", "must hold the generator 'third' and holds first, second", which="third")


@pytest.mark.parametrize("name", ["real.pth.tar", "network", "weights.model", "net (1).safetensors", "n.pt", "n.pkl"])
@pytest.mark.parametrize("kind", ["pickle", "torch", "safetensors"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, monkeypatch, name: str, kind: str) -> None:
    network = tiny()
    monkeypatch.chdir(tmp_path)
    if kind == "pickle":
        Path(name).write_bytes(nvidia_pickle(network.state_dict(), CONFIG))
    elif kind == "torch":
        torch.save(network.state_dict(), name)
    else:
        save_file(dict(network.state_dict()), name)
    assert is_same(network, load_generator(name).network)


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("network.pkl", "real.pth.tar", "folder/network", "g.safetensors"):
        with pytest.raises(LaceError) as caught:
            load_generator(name)
        assert str(caught.value) == (
            f"The weights '{name}' were required and do not exist (looked for in {tmp_path}): correct the path."
        )
    with pytest.raises(LaceError, match=f"'{tmp_path}' were required and are a folder: correct the path"):
        load_generator(tmp_path)


@pytest.mark.parametrize(("head", "words"), [("tar", "it is a tar archive"), ("gz", "it is compressed by gzip")])
def test_packed_files_are_named(tmp_path: Path, head: str, words: str) -> None:
    import tarfile

    torch.save(tiny().state_dict(), tmp_path / "inside.pt")
    with tarfile.open(tmp_path / "n.pth.tar", f"w:{'gz' if head == 'gz' else ''}") as archive:
        archive.add(tmp_path / "inside.pt", "inside.pt")
    refused(tmp_path / "n.pth.tar", f"{words}: unpack it and give the file inside")


# ---------------------------------------------------------------------------------- built as they say, or refused


@pytest.mark.parametrize("where", ["layers", "stored", "mapping"])
@pytest.mark.parametrize("activation", ["relu", "swish", "linear"])
def test_another_activation_is_refused(tmp_path: Path, where: str, activation: str) -> None:
    options: dict[str, Any] = {where: {"activation": activation}} if where != "mapping" else {}
    config = CONFIG | ({"mapping_kwargs": CONFIG["mapping_kwargs"]})
    data = nvidia_pickle(tiny().state_dict(), config, **options)
    if where == "mapping":
        data = tensorflow_pickle(tiny().state_dict(), {"mapping_nonlinearity": activation})
    (tmp_path / "n.pkl").write_bytes(data)
    refused(tmp_path / "n.pkl", f"The activation of a StyleGAN2 must be lrelu, and that in the file is '{activation}'")


def test_the_published_activation_is_no_assumption(tmp_path: Path) -> None:
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(tiny().state_dict(), CONFIG, layers={"activation": "lrelu"}))
    assert read_generator(tmp_path / "n.pkl").assumed == []


def test_a_network_without_noise_and_one_with_another_filter(tmp_path: Path) -> None:
    quiet = tiny({"use_noise": False})
    assert not any("noise" in name for name in quiet.state_dict())
    assert tiny().state_dict().keys() > quiet.state_dict().keys()
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(quiet.state_dict(), CONFIG, stored={"use_noise": False}))
    assert is_same(quiet, read_generator(tmp_path / "n.pkl").network())
    (tmp_path / "n.pkl").write_bytes(tensorflow_pickle(quiet.state_dict(), {"use_noise": False}))
    assert is_same(quiet, read_generator(tmp_path / "n.pkl").network())
    sharp = tiny({"resample_filter": [1, 2, 2, 1]})
    assert not is_same(sharp, tiny())
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(sharp.state_dict(), CONFIG))
    assert is_same(sharp, read_generator(tmp_path / "n.pkl").network())
    (tmp_path / "n.pkl").write_bytes(tensorflow_pickle(sharp.state_dict(), {"resample_kernel": [1, 2, 2, 1]}))
    assert is_same(sharp, read_generator(tmp_path / "n.pkl").network())
    for filters in ([1, 2, 3, 4], [1, 3, 3], [1, -1, -1, 1, 0], [1, -1, 1, -1], "1331"):
        with pytest.raises(LaceError, match="must have four taps, the same from either end"):
            tiny({"resample_filter": filters})
    uneven = {
        name: torch.arange(16.0).view(4, 4) if name.endswith("resample_filter") else value
        for name, value in tiny().state_dict().items()
    }
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(uneven, CONFIG))
    refused(tmp_path / "n.pkl", "low-pass filters of a StyleGAN2 must be the same from either end")


def test_a_network_without_noise_draws_the_same_in_every_mode() -> None:
    quiet, z = tiny({"use_noise": False}), torch.randn(2, 16)
    pictures = [quiet(z, noise_mode=mode) for mode in ("const", "none", "random")]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])


def test_the_multiplier_of_a_tensorflow_file_is_read(tmp_path: Path) -> None:
    network = tiny(mapping={"lr_multiplier": 0.1})
    (tmp_path / "n.pkl").write_bytes(
        tensorflow_pickle(network.state_dict(), {"mapping_lrmul": 0.1, "normalize_latents": True})
    )
    checkpoint = read_generator(tmp_path / "n.pkl")
    assert is_same(network, checkpoint.network())
    assert not any("multiplier" in text for text in checkpoint.assumed)
    (tmp_path / "n.pkl").write_bytes(tensorflow_pickle(network.state_dict(), {"normalize_latents": False}))
    refused(tmp_path / "n.pkl", "must be normalised, and the setting normalize_latents in the file is False")


@pytest.mark.parametrize("layout", ["state dict", "rosinality", "tensorflow"])
@pytest.mark.parametrize("multiplier", [1.0, 0.1, 0.001])
def test_another_multiplier_is_refused_and_can_be_given(tmp_path: Path, capsys, layout: str, multiplier: float) -> None:
    network = tiny(mapping={"lr_multiplier": multiplier})
    state, path = network.state_dict(), tmp_path / "n.pt"
    if layout == "state dict":
        torch.save(state, path)
    else:
        path.write_bytes(rosinality_file(state) if layout == "rosinality" else tensorflow_pickle(state))
    message = refused(path, r"learning rate multiplier 0\.01 \(lr_mlp\)")
    given = re.search(r"--lr-multiplier ([\d.e-]+)\.$", message)
    assert given is not None
    assert float(given[1]) == pytest.approx(multiplier, rel=0.2)
    cli.main(["convert", str(path), str(tmp_path / "o.safetensors"), "--lr-multiplier", str(multiplier)])
    assert is_same(network, load_generator(tmp_path / "o.safetensors").network)
    assert "learning rate" not in capsys.readouterr().out


def test_rosinalitys_multiplier_is_taken_from_its_arguments(tmp_path: Path) -> None:
    network = tiny(mapping={"lr_multiplier": 0.1})
    average = network.mapping.w_avg
    data = {"g_ema": rosinality_state(network.state_dict()), "latent_avg": average}
    torch.save({**data, "args": argparse.Namespace(lr_mlp=0.1, size=16)}, tmp_path / "n.pt")
    assert is_same(network, read_generator(tmp_path / "n.pt").network())


def test_a_generator_inside_of_an_encoders_checkpoint(tmp_path: Path) -> None:
    """As pSp and e4e store it: behind `decoder.`, with the mean of w once for each layer."""
    network = tiny()
    state = rosinality_state(network.state_dict())
    both = times(state, 1, "decoder.") | {"encoder.weight": torch.ones(2)}
    average = network.mapping.w_avg.expand(5, -1).clone()
    torch.save({"state_dict": both, "latent_avg": average, "opts": {"size": 16}}, tmp_path / "n.pt")
    read = read_generator(tmp_path / "n.pt").network()
    assert is_same(network, read)
    assert torch.equal(read.mapping.w_avg, network.mapping.w_avg)
    torch.save({"state_dict": both, "latent_avg": torch.randn(5, 12)}, tmp_path / "n.pt")
    refused(tmp_path / "n.pt", r"its tensor 'mapping\.w_avg' is \(60,\) where \(12,\) was expected")


def test_assumptions_of_every_layout_are_listed(tmp_path: Path) -> None:
    state = dict(tiny().state_dict())
    usual = [
        "learning rate multiplier 0.01 of the mapping (lr_mlp)",
        "leaky ReLU as activation",
        "no bound of the features (conv_clamp)",
    ]
    torch.save(state, tmp_path / "n.pt")
    assert read_generator(tmp_path / "n.pt").assumed == usual
    (tmp_path / "n.pt").write_bytes(rosinality_file(state))
    assert read_generator(tmp_path / "n.pt").assumed == [*usual, "low-pass filter [1, 3, 3, 1]"]
    (tmp_path / "n.pt").write_bytes(tensorflow_pickle(state))
    assert read_generator(tmp_path / "n.pt").assumed == [*usual, "low-pass filter [1, 3, 3, 1]"]
    (tmp_path / "n.pt").write_bytes(nvidia_pickle(state, CONFIG, stored={"a_new_setting": 0}))
    assert read_generator(tmp_path / "n.pt").assumed == [
        "setting 'a_new_setting' of the file, which is 0, changes no picture",
        "leaky ReLU as activation",
    ]
    (tmp_path / "n.pt").write_bytes(nvidia_pickle(state, CONFIG, stored={"a_new_setting": [1]}))
    refused(tmp_path / "n.pt", "the file has 'a_new_setting', which is not known here and may change the pictures")


def test_what_is_left_over_refuses_a_file(tmp_path: Path) -> None:
    """As in rosinality's swagan.py, whose pictures are wavelets of 12 channels."""
    state = rosinality_state(tiny().state_dict())
    haar = {f"to_rgbs.{level}.iwt.{part}": torch.ones(2, 2) / 2 for level in (0, 1) for part in ("ll", "lh")}
    torch.save({"g_ema": state | haar}, tmp_path / "n.pt")
    refused(tmp_path / "n.pt", r"no other tensors than a StyleGAN2, and it also has to_rgbs\.0\.iwt\.ll, .*, \.\.\.: ")
    torch.save(dict(tiny().state_dict()) | {"synthesis.b8.attention.weight": torch.ones(2)}, tmp_path / "n.pt")
    refused(tmp_path / "n.pt", r"its tensor 'synthesis\.b8\.attention\.weight' is \(2,\) where none was expected")
    more = {"synthesis/8x8/Attention/weight": np.ones(2, np.float32)}
    (tmp_path / "n.pt").write_bytes(tensorflow_pickle(tiny().state_dict(), more=more))
    refused(tmp_path / "n.pt", "it also has synthesis/8x8/Attention/weight")


@pytest.mark.parametrize("wrap", [False, True])
def test_stylegan3_of_stylegan3_fun(tmp_path: Path, wrap: bool) -> None:
    network = tiny3()
    state = dict(network.state_dict())
    if wrap:
        state = {name.replace("synthesis.", "synthesis.module."): value for name, value in state.items()}
    mapping = {"num_layers": 2, "freeze_layers": 2, "freeze_embed": True, "w_avg_beta": 0.998}
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, {**SIZES, **LAYERS, "mapping_kwargs": mapping}))
    checkpoint = read_generator(tmp_path / "n.pkl")
    z = torch.randn(2, 4)
    torch.testing.assert_close(checkpoint.network()(z), network(z), atol=1e-5, rtol=0)
    for name in ("use_attention", "x" * 3000):
        arguments = {**SIZES, **LAYERS, "mapping_kwargs": mapping, name: True}
        (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, arguments))
        refused(tmp_path / "n.pkl", "not known here and may change the pictures: give another file")
    torch.save(state, tmp_path / "n.pt")
    refused(tmp_path / "n.pt", r"must tell the settings of its StyleGAN3 generator, and a state dict does not")


def test_a_wrapped_network_of_nvidias(tmp_path: Path) -> None:
    network = tiny({"conv_clamp": 2.0}, {"lr_multiplier": 0.02})
    config = {
        **CONFIG,
        "synthesis_kwargs": {"conv_clamp": 2.0},
        "mapping_kwargs": {"num_layers": 2, "lr_multiplier": 0.02},
    }
    state = {
        name.replace("synthesis.", "synthesis.module.").replace("mapping.", "mapping._orig_mod."): value
        for name, value in network.state_dict().items()
    }
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, config))
    checkpoint = read_generator(tmp_path / "n.pkl")
    assert checkpoint.config["mapping_kwargs"]["lr_multiplier"] == pytest.approx(0.02)
    assert checkpoint.config["synthesis_kwargs"]["conv_clamp"] == 2.0
    assert is_same(network, checkpoint.network())


# --------------------------------------------------------------------------------------------------- the limits


@pytest.mark.parametrize(("levels", "width"), [(15, 8), (2, 1000), (14, 3)])
def test_a_walk_through_modules_ends(tmp_path: Path, levels: int, width: int) -> None:
    (tmp_path / "n.pkl").write_bytes(nested_modules(levels, width))
    assert (tmp_path / "n.pkl").stat().st_size < 30_000
    refused(tmp_path / "n.pkl", "must have at most 20000 modules and has more")


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 3000},
        {"num_layers": 2**70},
        {"num_layers": -1},
        {"num_layers": 3, "num_critical": 3},
        {"num_layers": 120},
        {"channel_base": 2**30, "channel_max": 512},
        {"channel_max": 2**40},
        {"channel_base": float("nan")},
        {"img_resolution": 2**40},
        {"img_resolution": 24},
        {"img_resolution": "16"},
        {"img_resolution": True},
        {"z_dim": 0},
        {"w_dim": 2**20},
        {"w_dim": None},
        {"c_dim": 2**19},
        {"first_cutoff": 0},
        {"first_cutoff": 1e300},
        {"first_stopband": 1e-300},
        {"last_stopband_rel": float("inf")},
        {"margin_size": 2**30},
        {"filter_size": 2**20},
        {"lrelu_upsampling": 7},
        {"conv_kernel": 101},
        {"conv_clamp": -1},
        {"output_scale": float("nan")},
        {"use_radial_filters": "yes"},
        {"mapping_kwargs": [1]},
        {"mapping_kwargs": {"num_layers": 10**9}},
        {"mapping_kwargs": {"layer_features": 2**20}},
        {"mapping_kwargs": {"lr_multiplier": 0}},
    ],
    ids=str,
)
def test_settings_of_a_stylegan3_that_make_no_network_of_its_tensors(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle(tiny3().state_dict(), {**SIZES, **LAYERS, **change}))
    refused(tmp_path / "n.pkl", r".+: [a-z ,]+")
    own(tmp_path / "o.safetensors", tiny3(), change, stylegan3=True)
    with pytest.raises(LaceError):
        load_generator(tmp_path / "o.safetensors")


def own(path: Path, network: Any, change: dict[str, Any], stylegan3: bool = False) -> None:
    """Write a file of this program with changed arguments."""
    if stylegan3:
        config = {**SIZES, "mapping_kwargs": {}, "synthesis_kwargs": LAYERS}
        target = config if change.keys() <= config.keys() else config["synthesis_kwargs"]
        config = {**config, **change} if target is config else {**config, "synthesis_kwargs": {**LAYERS, **change}}
    else:
        config = {**CONFIG, **change}
    save_network(network, config, path)


OWN: dict[str, tuple[dict[str, Any], str]] = {
    "unknown argument": (
        {"attention": True},
        "The table network of a generator must have the names .* received 'attention'",
    ),
    "img_resolution": (
        {"img_resolution": 2**40},
        "img_resolution of a generator must be a power of two from 4 to 4096",
    ),
    "no power of two": ({"img_resolution": 24}, "must be a power of two from 4 to 4096, received 24"),
    "text": ({"z_dim": "many"}, "z_dim of a generator must be a whole number from 1 to 1048576, received 'many'"),
    "a list": ({"w_dim": [4]}, "w_dim of a generator must be a whole number .* received list"),
    "layers": ({"mapping_kwargs": {"num_layers": 10**9}}, "num_layers of a generator must be .* from 1 to 128"),
    "wide": ({"w_dim": 2**20}, "its tensor '.*' is .* where .* was expected"),
    "unknown of the synthesis": ({"synthesis_kwargs": {"attention": 1}}, "The table synthesis_kwargs .* 'attention'"),
    "unknown of the mapping": ({"mapping_kwargs": {"dropout": 1}}, "The table mapping_kwargs .* received 'dropout'"),
    "no table": ({"synthesis_kwargs": 3}, "synthesis_kwargs of a generator must be a table or null, received 3"),
    "architecture": ({"synthesis_kwargs": {"architecture": "unet"}}, "must be skip or resnet or orig, received 'unet'"),
    "activation": ({"mapping_kwargs": {"activation": "relu"}}, "activation of a generator must be lrelu"),
    "channels": ({"synthesis_kwargs": {"channels": {"5": 3}}}, "The table channels .* received '5'"),
    "no channels": ({"synthesis_kwargs": {"channels": {"8": 0}}}, "channels of a generator must be a whole number"),
    "clamp": ({"synthesis_kwargs": {"conv_clamp": "a"}}, "conv_clamp .* must be a finite number above 0 or null"),
}


@pytest.mark.parametrize("name", OWN)
def test_our_own_files_with_other_arguments(tmp_path: Path, name: str) -> None:
    change, words = OWN[name]
    own(tmp_path / "g.safetensors", tiny(), change)
    with pytest.raises(LaceError, match=words) as caught:
        load_generator(tmp_path / "g.safetensors")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "is no table with a kind"),
        ([1, 2], "is no table with a kind"),
        ({"kind": 3}, "is no table with a kind"),
        ({"kind": "stylegan\x1b[2J9"}, r"of kind 'stylegan\\x1b\[2J9'"),
        ({"kind": "stylegan2"}, "its tensor '.*' is .* where .* was expected"),
        ({"kind": "stylegan2", "network": None}, "its tensor '.*' is .* where .* was expected"),
        ({"kind": "stylegan2", "network": [3]}, "network of a generator must be a table or null, received list"),
        ({"kind": "stylegan2", "network": CONFIG, "options": {"colour": 1}}, "The table options .* received 'colour'"),
        ({"kind": "stylegan2", "network": CONFIG, "options": [1]}, "options of a generator must be a table"),
        ({"kind": "stylegan2", "network": CONFIG, "options": {"truncation": "a"}}, "truncation .* finite number"),
        ({"kind": "stylegan2", "network": CONFIG, "options": {"max_batch": -1}}, "max_batch must be"),
    ],
)
def test_our_own_files_with_another_configuration(tmp_path: Path, config: Any, words: str) -> None:
    save_file(
        {name: value.contiguous() for name, value in tiny().state_dict().items()},
        tmp_path / "g.safetensors",
        {"lace": json.dumps(config)},
    )
    with pytest.raises(LaceError, match=words) as caught:
        load_generator(tmp_path / "g.safetensors")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"kind": ' * 50_000, "\x1b[2J", "null", "1" * 5000])
def test_our_own_files_with_a_configuration_that_is_none(tmp_path: Path, text: str) -> None:
    save_file(dict(tiny().state_dict()), tmp_path / "g.safetensors", {"lace": text})
    with pytest.raises(LaceError, match="get the file again") as caught:
        load_generator(tmp_path / "g.safetensors")
    assert str(caught.value).isprintable()


def test_a_file_of_our_own_is_not_converted(tmp_path: Path) -> None:
    own(tmp_path / "g.safetensors", tiny(), {})
    refused(tmp_path / "g.safetensors", "is one of this program already: use it as it is")


def test_a_tensor_that_is_missing_from_our_own_file(tmp_path: Path) -> None:
    state = dict(tiny().state_dict())
    del state["mapping.fc1.bias"]
    save_tensors(tmp_path / "g.safetensors", state, {"kind": "stylegan2", "network": CONFIG})
    with pytest.raises(LaceError, match=r"its tensor 'mapping\.fc1\.bias' is missing where \(12,\) was expected"):
        load_generator(tmp_path / "g.safetensors")


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"


@pytest.mark.parametrize("name", [EVIL, "a" * 2**20, "\x00", "\ud800", "." * 3000, "synthesis.b4.const." * 5000])
def test_names_of_a_file_are_escaped_and_cut(tmp_path: Path, name: str) -> None:
    state = dict(tiny().state_dict())
    for number, data in enumerate(
        (
            {name: torch.ones(2)},
            {name: 3},
            {name: state, "other": state},
            state | {name: torch.ones(2)},
            rosinality_state(state) | {name: torch.ones(2)},
            rosinality_state(state) | {f"{name}.blur.kernel": torch.ones(2)},
        )
    ):
        try:
            torch.save(data, tmp_path / f"{number}.pt")
        except UnicodeError:
            return
        refused(tmp_path / f"{number}.pt", r"^The ")
        with pytest.raises(SystemExit):
            cli.main(["convert", str(tmp_path / f"{number}.pt"), str(tmp_path / "o.safetensors")])
    config = {**CONFIG, "synthesis_kwargs": {"conv_clamp": None}}
    for options in ({"layers": {"activation": name}}, {"stored": {name: 1}}):
        (tmp_path / "n.pkl").write_bytes(nvidia_pickle(state, config, **options))
        refused(tmp_path / "n.pkl", r"^The ")
    (tmp_path / "n.pkl").write_bytes(nvidia_pickle({name.replace(".", "_") or "x": torch.ones(2)}, config))
    refused(tmp_path / "n.pkl", r"^The ")


def test_a_key_that_is_taken_is_escaped_too(tmp_path: Path, capsys) -> None:
    state = dict(tiny().state_dict())
    torch.save({f"ema {EVIL}": state, "b": times(state, 2)}, tmp_path / "n.pt")
    cli.main(["convert", str(tmp_path / "n.pt"), str(tmp_path / "o.safetensors")])
    assert capsys.readouterr().out.replace("\n", "").isprintable()


# ---------------------------------------------------------------------------------------- arguments of generators


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"truncation": math.nan}, "truncation of a generator must be a finite number, received nan"),
        ({"truncation": math.inf}, "truncation of a generator must be a finite number"),
        ({"truncation": "0.7"}, "truncation of a generator must be a finite number, received '0.7'"),
        ({"truncation_cutoff": -1}, "truncation_cutoff of a generator must be a whole number from 0"),
        ({"truncation_cutoff": 1.5}, "truncation_cutoff of a generator must be a whole number from 0"),
        ({"condition": -1}, "class number from 0 below 3 or 3 finite numbers, received -1"),
        ({"condition": 3}, "class number from 0 below 3 or 3 finite numbers, received 3"),
        ({"condition": True}, "class number from 0 below 3 or 3 finite numbers, received True"),
        ({"condition": [1.0, 0.0]}, "3 finite numbers"),
        ({"condition": [1.0, math.nan, 0.0]}, "3 finite numbers"),
        ({"condition": "cat"}, "3 finite numbers, received cat"),
        ({"condition": None}, "conditional on 3 numbers"),
        ({"noise": "random"}, "noise of a generator must be const or none, received 'random'"),
    ],
)
def test_wrong_arguments_of_a_generator(options: dict[str, Any], words: str) -> None:
    network = StyleGAN2Network(4, 6, 3, 8, synthesis_kwargs={"channel_base": 32})
    with pytest.raises(LaceError, match=words):
        StyleGAN2Generator(network, **{"condition": 0, **options})


def test_classes_and_numbers_are_the_same_condition() -> None:
    network = StyleGAN2Network(4, 6, 3, 8, synthesis_kwargs={"channel_base": 32})
    first, second = StyleGAN2Generator(network, condition=2), StyleGAN2Generator(network, condition=[0, 0, 1])
    assert torch.equal(first.prior(2), second.prior(2))
    assert first.digest == second.digest == StyleGAN2Generator(network, condition=np.int64(2)).digest


@pytest.mark.parametrize("kind", [StyleGAN2Network, StyleGAN3Network])
@pytest.mark.parametrize("group", ["synthesis_kwargs", "mapping_kwargs"])
def test_unknown_names_are_refused_by_both_networks(kind: Any, group: str) -> None:
    with pytest.raises(LaceError, match=f"The table {group} of a generator must have the names .*, received 'blur'"):
        kind(8, 8, img_resolution=16, **{group: {"blur": 1}})


@pytest.mark.parametrize("resolution", [24, 2, 0, -8, 8192, 2**40, 16.0, "16", None, True])
@pytest.mark.parametrize("kind", [StyleGAN2Network, StyleGAN3Network])
def test_sides_that_are_no_power_of_two(kind: Any, resolution: Any) -> None:
    with pytest.raises(LaceError, match="img_resolution of a generator must be a power of two from 4 to 4096"):
        kind(8, 8, img_resolution=resolution)


@pytest.mark.parametrize("shape", [(8,), (2, 9), (2, 3, 8), (2, 4, 9), (2, 4, 8, 1), ()])
def test_latents_of_another_shape_are_one_sentence(shape: tuple[int, ...]) -> None:
    network = StyleGAN2Network(6, 8, 0, 8, synthesis_kwargs={"channel_base": 32})
    generator = StyleGAN2Generator(network)
    assert generator.num_ws == 4
    with pytest.raises(LaceError, match=re.escape(f"shape (B, 8) or (B, 4, 8), received {shape}")):
        generator.synthesis(torch.zeros(shape))
    with pytest.raises(LaceError, match=re.escape(f"shape (B, 6), received {shape}")):
        generator(torch.zeros(shape))
