"""Files as other programs write them, made of recorded networks: the same names, the same order, tiny sizes."""

from __future__ import annotations

import io
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = "raise SystemExit('the source inside of a checkpoint was run')"


def _class(module: types.ModuleType, name: str, base: type = object, **members: Any) -> type:
    made = type(name, (base,), {"__module__": module.__name__, **members})
    setattr(module, name, made)
    return made


@contextmanager
def their_modules() -> Iterator[dict[str, Any]]:
    """Names that their pickles mention, importable while files are written and gone when they are read."""
    modules = {
        name: types.ModuleType(name)
        for name in (
            "torch_utils",
            "torch_utils.persistence",
            "dnnlib",
            "dnnlib.util",
            "dnnlib.tflib",
            "dnnlib.tflib.network",
        )
    }
    persistence = modules["torch_utils.persistence"]

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("read by pickle itself")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    made = {
        "reconstruct": _reconstruct_persistent_obj,
        "EasyDict": _class(modules["dnnlib.util"], "EasyDict", dict),
        "Network": _class(modules["dnnlib.tflib.network"], "Network", __getstate__=lambda self: self.state),
    }
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


class _Persistent:
    """Reduces to what their `persistent_class` reduces to."""

    def __init__(self, theirs: Mapping[str, Any], name: str, state: dict[str, Any]) -> None:
        self.theirs, self.name, self.state = theirs, name, state

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        meta = self.theirs["EasyDict"](
            type="class", version=6, module_src=SOURCE, class_name=self.name, state=self.state
        )
        return self.theirs["reconstruct"], (meta,)


def nvidia_network(
    theirs: Mapping[str, Any],
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    layers: Mapping[str, Any] | None = None,
    stored: Mapping[str, Any] | None = None,
) -> _Persistent:
    """Return one of NVIDIA's networks with these tensors: modules in modules, parameters and buffers apart.

    `config` has the arguments of a StyleGAN2 (with `synthesis_kwargs`), or those of a StyleGAN3 as they are stored.
    `layers` are further attributes of all layers, `stored` further arguments of the synthesis.
    """
    stylegan3 = "synthesis_kwargs" not in config
    clamp = None if stylegan3 else config["synthesis_kwargs"].get("conv_clamp")

    def module(prefix: str, kind: str, **attributes: Any) -> _Persistent:
        own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        children = OrderedDict(
            (child, module(f"{prefix}{child}.", f"{child}Layer"))
            for child in dict.fromkeys(key.split(".")[0] for key in own if "." in key)
        )
        buffers = {"resample_filter", "noise_const", "w_avg"}
        leaves = {key: value.clone() for key, value in own.items() if "." not in key}
        if kind.startswith("conv"):
            attributes["conv_clamp"] = clamp
        if kind.startswith(("conv", "fc")):
            attributes.update(layers or {})
        if kind.startswith("fc") and not stylegan3:
            attributes["weight_gain"] = config["mapping_kwargs"].get("lr_multiplier", 0.01) / np.sqrt(
                leaves["weight"].shape[1]
            )
        return _Persistent(
            theirs,
            kind,
            {
                "training": False,
                "_parameters": OrderedDict((k, torch.nn.Parameter(v)) for k, v in leaves.items() if k not in buffers),
                "_buffers": OrderedDict((k, v) for k, v in leaves.items() if k in buffers),
                "_non_persistent_buffers_set": set(),
                "_backward_hooks": OrderedDict(),
                "_modules": children,
                **attributes,
            },
        )

    arguments = {key: config[key] for key in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    if stylegan3:
        return module("", "Generator", _init_args=(), _init_kwargs=theirs["EasyDict"](config))
    return module(
        "",
        "Generator",
        _init_args=(),
        _init_kwargs=theirs["EasyDict"](
            **arguments,
            mapping_kwargs=theirs["EasyDict"](num_layers=config["mapping_kwargs"]["num_layers"]),
            synthesis_kwargs=theirs["EasyDict"](conv_clamp=clamp, num_fp16_res=4, **(stored or {})),
        ),
        **arguments,
    )


def nvidia_pickle(
    state: Mapping[str, Tensor],
    config: Mapping[str, Any],
    protocol: int = 4,
    discriminator: int = 3,
    layers: Mapping[str, Any] | None = None,
    stored: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a snapshot of StyleGAN2-ADA's repository, whose discriminator has so many parameters."""
    with their_modules() as theirs:
        average = nvidia_network(theirs, state, config, layers, stored)
        other = nvidia_network(theirs, {key: value * 2 for key, value in state.items()}, config)
        return pickle.dumps(
            {
                "training_set_kwargs": theirs["EasyDict"](path="x"),
                "G": other,
                "D": _critic(theirs, discriminator),
                "G_ema": average,
                "augment_pipe": _Persistent(theirs, "AugmentPipe", {"_buffers": OrderedDict(p=torch.zeros([]))}),
            },
            protocol,
        )


def discriminator_pickle(alone: bool = False) -> bytes:
    """Return a snapshot without a generator: the discriminator by its name, or alone."""
    with their_modules() as theirs:
        return pickle.dumps(_critic(theirs) if alone else {"D": _critic(theirs)})


def _critic(theirs: Mapping[str, Any], count: int = 3) -> _Persistent:
    return _Persistent(
        theirs, "Discriminator", {"_parameters": OrderedDict(weight=torch.nn.Parameter(torch.ones(count)))}
    )


def nested_modules(levels: int, width: int) -> bytes:
    """Return a snapshot of few bytes: levels of modules that each name the next one `width` times."""
    with their_modules() as theirs:
        module = _Persistent(theirs, "Layer", {"_parameters": OrderedDict(weight=torch.nn.Parameter(torch.ones(1)))})
        for _ in range(levels):
            children = OrderedDict((f"m{index}", module) for index in range(width))
            module = _Persistent(theirs, "Layer", {"_modules": children})
        return pickle.dumps({"G_ema": module})


def tensorflow_pickle(
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Return (G, D, Gs) as the TensorFlow version pickles them, with static arguments and further variables."""
    variables: dict[str, np.ndarray] = dict(more or {})
    for key, value in state.items():
        array = value.numpy()
        network, *rest = key.split(".")
        if network == "mapping":
            if rest[0] == "w_avg":
                variables["dlatent_avg"] = array
            else:
                layer = "LabelEmbed" if rest[0] == "embed" else f"Dense{rest[0][2:]}"
                variables[f"mapping/{layer}/{rest[1]}"] = array.T if rest[1] == "weight" else array
            continue
        resolution, level = int(rest[0][1:]), int(np.log2(int(rest[0][1:])))
        block = f"synthesis/{resolution}x{resolution}"
        if rest[1] == "const":
            variables[f"{block}/Const/const"] = array[None]
        elif rest[-1] != "resample_filter":
            layer = {
                "conv0": "Conv0_up",
                "conv1": "Conv1" if resolution > 4 else "Conv",
                "torgb": "ToRGB",
                "skip": "Skip",
            }[rest[1]]
            if rest[-1] == "noise_const":
                number = 0 if resolution == 4 else 2 * level - (5 if rest[1] == "conv0" else 4)
                variables[f"synthesis/noise{number}"] = array[None, None]
            elif rest[2] == "affine":
                variables[f"{block}/{layer}/mod_{rest[3]}"] = array.T if rest[3] == "weight" else array - 1
            elif rest[2] == "weight":
                kernel = array.transpose(2, 3, 1, 0)
                variables[f"{block}/{layer}/weight"] = kernel[::-1, ::-1] if layer in ("Conv0_up", "Skip") else kernel
            else:
                variables[f"{block}/{layer}/{rest[2]}"] = array
    with their_modules() as theirs:

        def network(prefix: str, components: dict[str, Any]) -> Any:
            made = theirs["Network"]()
            own = [
                (name[len(prefix) :], np.ascontiguousarray(value))
                for name, value in variables.items()
                if name.startswith(prefix) and (prefix or "/" not in name)
            ]
            made.state = {
                "version": 5,
                "name": prefix,
                "static_kwargs": theirs["EasyDict"](settings or {}),
                "components": theirs["EasyDict"](components),
                "build_module_src": SOURCE,
                "build_func_name": "G_main",
                "variables": own,
            }
            return made

        whole = network("", {"synthesis": network("synthesis/", {}), "mapping": network("mapping/", {})})
        return pickle.dumps((network("synthesis/", {}), network("mapping/", {}), whole), 2)


def rosinality_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same network by rosinality's names and scales."""
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        network, *rest = key.split(".")
        if network == "mapping":
            if rest[0] != "w_avg":
                result[f"style.{int(rest[0][2:]) + 1}.{rest[1]}"] = value
            continue
        level = int(np.log2(int(rest[0][1:]))) - 3
        if rest[1] == "const":
            result["input.input"] = value[None]
        elif rest[-1] != "resample_filter":
            rgb = rest[1] == "torgb"
            later = f"to_rgbs.{level}" if rgb else f"convs.{2 * level + (rest[1] == 'conv1')}"
            name = later if level >= 0 else "to_rgb1" if rgb else "conv1"
            if rest[-1] == "noise_const":
                result[f"noises.noise_{0 if level < 0 else 2 * level + 1 + (rest[1] == 'conv1')}"] = value[None, None]
            elif rest[-1] == "noise_strength":
                result[f"{name}.noise.weight"] = value.reshape(1)
            elif rest[2] == "affine":
                result[f"{name}.conv.modulation.{rest[3]}"] = value
            elif rest[2] == "weight":
                result[f"{name}.conv.weight"] = value[None] * (1 if rgb else np.sqrt(value[0].numel()))
            else:
                result[f"{name}.bias" if rgb else f"{name}.activate.bias"] = (
                    value.reshape(1, -1, 1, 1) if rgb else value
                )
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    result["convs.0.conv.blur.kernel"] = torch.outer(taps, taps) / 16
    return result


def rosinality_file(state: Mapping[str, Tensor], legacy: bool = False) -> bytes:
    """Return rosinality's checkpoint, with its arguments and the state of an optimiser beside."""
    import argparse

    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.Adam([weight])
    weight.sum().backward()
    optimiser.step()
    average = rosinality_state(state)
    data = {
        "g": {key: value * 2 for key, value in average.items()},
        "g_ema": average,
        "d": {"w": torch.ones(2)},
        "g_optim": optimiser.state_dict(),
        "args": argparse.Namespace(size=16, ckpt=None),
        "ada_aug_p": 0.1,
        "latent_avg": state["mapping.w_avg"],
    }
    stream = io.BytesIO()
    torch.save(data, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()
