"""Conversion of names and conventions of other StyleGAN2 programs to those of StyleGAN2-ADA, used here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import LaceError
from ..seeds import normal
from .stylegan2_layers import fir_filter
from .stylegan2_networks import MappingNetwork

# Number of latents (of seeds 0, 1, ...) whose mean is w_avg where a file has none.
AVERAGED = 10_000


def stylegan2_config(
    state: dict[str, Tensor],
    arguments: Mapping[str, Any],
    attribute: Callable[[str, str], Any] = lambda path, name: None,
) -> dict[str, Any]:
    """Return the constructor arguments of a `StyleGAN2Network` with given tensors.

    Settings that the shapes do not tell are taken from the arguments and attributes stored in the file. Low-pass
    filters that a file leaves out are added to `state`.

    Args:
        state: tensors by the names of `StyleGAN2Network`; changed in place.
        arguments: constructor arguments stored in the file, {} where there are none.
        attribute: function (path of a submodule, name of an attribute) -> value in the file, or None.

    Returns:
        Arguments of `StyleGAN2Network`, with keys as JSON has them.

    Raises:
        LaceError: for tensors that are not those of a StyleGAN2 generator.

    Example:
        >>> from lace_lightning.generators import StyleGAN2Network
        >>> network = StyleGAN2Network(4, 6, img_resolution=8, synthesis_kwargs={"channel_base": 32})
        >>> config = stylegan2_config(network.state_dict(), {})
        >>> config["w_dim"], config["mapping_kwargs"]["num_layers"], config["synthesis_kwargs"]["channels"]
        (6, 8, {'4': 8, '8': 4})
    """
    resolutions = sorted(
        int(match[1]) for name in state if (match := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.weight", name))
    )
    depth = sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in state)
    if resolutions != [4 * 2**k for k in range(len(resolutions))] or not depth or len(resolutions) > 12:
        raise LaceError(
            f"A StyleGAN2 generator has a mapping and the resolutions 4, 8, 16, ..., and the file has {depth} mapping "
            f"layers and {str(resolutions)[:60] if resolutions else 'no resolutions'}: give another file."
        )
    last = resolutions[-1]
    has_rgb = [f"synthesis.b{r}.torgb.weight" in state for r in resolutions]
    architecture = "resnet" if any(".skip." in name for name in state) else "skip" if all(has_rgb) else "orig"
    try:
        w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
        embedded = state["mapping.embed.weight"].shape if "mapping.embed.weight" in state else (0, 0)
        widths = [state[f"mapping.fc{index}.weight"].shape[0] for index in range(depth)]
        config: dict[str, Any] = {
            "z_dim": state["mapping.fc0.weight"].shape[1] - embedded[0],
            "w_dim": w_dim,
            "c_dim": embedded[1],
            "img_resolution": last,
            "img_channels": state[f"synthesis.b{last}.torgb.weight"].shape[0],
        }
        channels = {r: state[f"synthesis.b{r}.conv1.weight"].shape[0] for r in resolutions}
    except (KeyError, IndexError) as error:
        raise LaceError(f"A StyleGAN2 generator has the tensor {error}, and the file has not: get it again.") from None
    gain = attribute("mapping.fc0", "weight_gain")
    inputs = config["z_dim"] + embedded[0]
    multiplier = (
        round(gain * math.sqrt(inputs), 9)
        if isinstance(gain, float)
        else _number(arguments, "mapping_kwargs", "lr_multiplier") or 0.01
    )
    mapping = {"num_layers": depth, "lr_multiplier": multiplier}
    mapping |= {"layer_features": widths[0]} if depth > 1 and widths[0] != w_dim else {}
    mapping |= {"embed_features": embedded[0]} if embedded[0] not in (0, w_dim) else {}
    clamp = attribute(f"synthesis.b{last}.conv1", "conv_clamp") or _number(arguments, "synthesis_kwargs", "conv_clamp")
    config["mapping_kwargs"] = mapping
    # Keys as JSON has them: a card and a file then hold the same configuration.
    config["synthesis_kwargs"] = {
        "channels": {str(r): width for r, width in channels.items()},
        "architecture": architecture,
        "conv_clamp": None if clamp is None else float(clamp),
    }
    for r in resolutions:
        for part in ("", "conv0.", "conv1.", "skip."):
            if part in ("", "conv1.") or any(name.startswith(f"synthesis.b{r}.{part}") for name in state):
                state.setdefault(f"synthesis.b{r}.{part}resample_filter", fir_filter())
    return config


def _number(arguments: Mapping[str, Any], group: str, name: str) -> float | None:
    value = (arguments.get(group) or {}).get(name) if isinstance(arguments.get(group), Mapping | None) else None
    return float(value) if isinstance(value, (int, float)) else None


def from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the variables of a TensorFlow StyleGAN2 to the state dict of a `StyleGAN2Network`.

    TensorFlow stores kernels as (kH, kW, I, O) and dense weights as (I, O), flips the kernel of an upsampling
    convolution, and adds 1 to the bias of a style when the network runs.

    Args:
        variables: float32 tensors by name, such as `mapping/Dense0/weight` or `synthesis/8x8/Conv0_up/weight`.

    Returns:
        Tensors by the names of `StyleGAN2Network`, without low-pass filters (see `stylegan2_config`).

    Raises:
        LaceError: for variables that are not those of a StyleGAN2 generator.

    Example:
        >>> from_tensorflow({"lod": torch.zeros([])})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The TensorFlow network in the file must be a StyleGAN2 generator, with ...
    """
    state: dict[str, Tensor] = {}
    blocks = sorted({int(match[1]) for name in variables if (match := re.match(r"synthesis/(\d+)x\1/", name))})
    if not blocks or blocks[0] != 4 or "synthesis/4x4/Const/const" not in variables:
        raise LaceError(
            "The TensorFlow network in the file must be a StyleGAN2 generator, with synthesis/4x4/Const/const, and is "
            "not: give the pickle of a StyleGAN2."
        )

    def kernel(name: str, flip: bool = False) -> Tensor:
        weight = variables[name]
        return (weight.flip(0, 1) if flip else weight).permute(3, 2, 0, 1).contiguous()

    def affine(source: str, target: str) -> None:
        state[f"{target}.affine.weight"] = variables[f"{source}/mod_weight"].T.contiguous()
        state[f"{target}.affine.bias"] = variables[f"{source}/mod_bias"] + 1
        state[f"{target}.bias"] = variables[f"{source}/bias"]

    def layer(source: str, target: str, noise: int, flip: bool = False) -> None:
        affine(source, target)
        state[f"{target}.weight"] = kernel(f"{source}/weight", flip)
        state[f"{target}.noise_strength"] = variables[f"{source}/noise_strength"].reshape(())
        state[f"{target}.noise_const"] = variables[f"synthesis/noise{noise}"][0, 0]

    try:
        for index in range(sum(re.fullmatch(r"mapping/Dense\d+/weight", name) is not None for name in variables)):
            state[f"mapping.fc{index}.weight"] = variables[f"mapping/Dense{index}/weight"].T.contiguous()
            state[f"mapping.fc{index}.bias"] = variables[f"mapping/Dense{index}/bias"]
        if "mapping/LabelEmbed/weight" in variables:
            state["mapping.embed.weight"] = variables["mapping/LabelEmbed/weight"].T.contiguous()
            state["mapping.embed.bias"] = variables["mapping/LabelEmbed/bias"]
        state["mapping.w_avg"] = variables["dlatent_avg"]
        for r in blocks:
            source, target, level = f"synthesis/{r}x{r}", f"synthesis.b{r}", int(math.log2(r))
            if r == 4:
                state[f"{target}.const"] = variables[f"{source}/Const/const"][0]
                layer(f"{source}/Conv", f"{target}.conv1", 0)
            else:
                layer(f"{source}/Conv0_up", f"{target}.conv0", 2 * level - 5, flip=True)
                layer(f"{source}/Conv1", f"{target}.conv1", 2 * level - 4)
            if f"{source}/ToRGB/weight" in variables:
                affine(f"{source}/ToRGB", f"{target}.torgb")
                state[f"{target}.torgb.weight"] = kernel(f"{source}/ToRGB/weight")
            if f"{source}/Skip/weight" in variables:
                state[f"{target}.skip.weight"] = kernel(f"{source}/Skip/weight", flip=True)
    except (KeyError, IndexError, RuntimeError) as error:
        raise LaceError(
            f"The TensorFlow network in the file must be a StyleGAN2 generator, and a variable is missing or of "
            f"another shape ({' '.join(str(error).split())[:80]}): give the pickle of a StyleGAN2."
        ) from None
    return state


def from_rosinality(found: Mapping[str, Tensor], average: Tensor | None) -> tuple[dict[str, Tensor], list[str]]:
    """Convert tensors of rosinality's layout to the state dict of a `StyleGAN2Network`.

    That layout multiplies a kernel by 1/√(fan in) when the network runs, before demodulation. Here the factor is
    multiplied into the weights.

    Args:
        found: tensors by name, such as `style.1.weight`, `convs.0.conv.weight` or `to_rgbs.0.bias`.
        average: mean w (Dw,); None computes the mean over 10,000 latents.

    Returns:
        Tensors by the names of `StyleGAN2Network`, without low-pass filters (see `stylegan2_config`), and one phrase
        for each assumption.

    Raises:
        LaceError: for another low-pass filter than [1, 3, 3, 1], and for missing tensors or other shapes.

    Example:
        >>> from_rosinality({"input.input": torch.zeros(1, 8, 4, 4)}, None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The file must hold a generator of rosinality's layout, and a tensor is ...
    """
    state: dict[str, Tensor] = {}
    assumed: list[str] = []

    def layer(source: str, target: str, noise: int, resolution: int) -> None:
        weight = found[f"{source}.conv.weight"][0].float()
        state[f"{target}.weight"] = weight / math.sqrt(weight[0].numel())
        state[f"{target}.affine.weight"] = found[f"{source}.conv.modulation.weight"].float()
        state[f"{target}.affine.bias"] = found[f"{source}.conv.modulation.bias"].float()
        state[f"{target}.bias"] = found[f"{source}.activate.bias"].float().flatten()
        state[f"{target}.noise_strength"] = found[f"{source}.noise.weight"].float().reshape(())
        constant = found.get(f"noises.noise_{noise}")
        if constant is None:
            assumed.append(f"noise of {target}: drawn from seed {noise}")
            constant = normal(torch.tensor([noise]), (1, resolution, resolution))
        state[f"{target}.noise_const"] = constant.float().reshape(resolution, resolution)

    def to_rgb(source: str, target: str) -> None:
        state[f"{target}.weight"] = found[f"{source}.conv.weight"][0].float()
        state[f"{target}.affine.weight"] = found[f"{source}.conv.modulation.weight"].float()
        state[f"{target}.affine.bias"] = found[f"{source}.conv.modulation.bias"].float()
        state[f"{target}.bias"] = found[f"{source}.bias"].float().flatten()

    for name, taps in found.items():
        if not name.endswith((".blur.kernel", ".upsample.kernel")):
            continue
        if taps.shape != (4, 4) or not torch.allclose(taps.float() / taps.float().sum(), fir_filter(), atol=1e-4):
            raise LaceError(
                f"The generator must use the low-pass filter [1, 3, 3, 1], and '{name[:60]}' in the file is another: "
                "give a generator that was trained with that filter."
            )
    try:
        depth = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in found)
        for index in range(depth):
            state[f"mapping.fc{index}.weight"] = found[f"style.{index + 1}.weight"].float()
            state[f"mapping.fc{index}.bias"] = found[f"style.{index + 1}.bias"].float()
        state["synthesis.b4.const"] = found["input.input"][0].float()
        layer("conv1", "synthesis.b4.conv1", 0, 4)
        to_rgb("to_rgb1", "synthesis.b4.torgb")
        for block in range(sum(re.fullmatch(r"to_rgbs\.\d+\.bias", name) is not None for name in found)):
            resolution = 8 * 2**block
            layer(f"convs.{2 * block}", f"synthesis.b{resolution}.conv0", 2 * block + 1, resolution)
            layer(f"convs.{2 * block + 1}", f"synthesis.b{resolution}.conv1", 2 * block + 2, resolution)
            to_rgb(f"to_rgbs.{block}", f"synthesis.b{resolution}.torgb")
        if average is None:
            assumed.append(f"mean w: over {AVERAGED} latents")
            average = _mean_w(state, depth)
        state["mapping.w_avg"] = average.float().flatten()
    except (KeyError, IndexError, RuntimeError) as error:
        raise LaceError(
            "The file must hold a generator of rosinality's layout, and a tensor is missing or of another shape "
            f"({' '.join(str(error).split())[:80]}): get it again."
        ) from None
    return state, assumed


@torch.no_grad()
def _mean_w(state: Mapping[str, Tensor], depth: int) -> Tensor:
    w_dim, z_dim = len(state[f"mapping.fc{depth - 1}.bias"]), state["mapping.fc0.weight"].shape[1]
    network = MappingNetwork(z_dim, 0, w_dim, depth, layer_features=len(state["mapping.fc0.bias"]))
    network.load_state_dict(
        {name.removeprefix("mapping."): value for name, value in state.items() if name.startswith("mapping.")}
        | {"w_avg": torch.zeros(w_dim)}
    )
    return torch.stack(
        [network(normal(torch.arange(first, first + 1000), (z_dim,))).mean(0) for first in range(0, AVERAGED, 1000)]
    ).mean(0)
