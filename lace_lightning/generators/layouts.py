"""Conversion of names and conventions of other StyleGAN2 programs to those of StyleGAN2-ADA, used here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import LaceError, in_one_line, listed, quoted
from ..seeds import normal
from .arguments import MAX_LAYERS, MAX_RESOLUTION
from .stylegan2_layers import TAPS, fir_filter
from .stylegan2_networks import (
    IGNORED,
    IGNORED_OF_MAPPING,
    MAPPING_NAMES,
    SYNTHESIS_NAMES,
    MappingNetwork,
)

# Learning rate multiplier of the mapping in the published networks.
MULTIPLIER = 0.01
# Weights are drawn with the standard deviation 1/multiplier, and training moves it by a few per cent; these are the
# bounds of their ratio to it outside of which a file was trained with another multiplier.
SPREAD = (0.6, 5.0)
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
        LaceError: for tensors that are not those of a StyleGAN2 generator, and for settings in the file that are not
            built here, such as another activation.

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
    expected = [4 * 2**k for k in range(len(resolutions))]
    if resolutions != expected or not 1 <= depth <= MAX_LAYERS or not resolutions or resolutions[-1] > MAX_RESOLUTION:
        raise LaceError(
            f"A StyleGAN2 generator has a mapping of 1 to {MAX_LAYERS} layers and the resolutions 4, 8, 16, ... up to "
            f"{MAX_RESOLUTION}, and the file has {depth} mapping layers and "
            f"{str(resolutions)[:60] if resolutions else 'no resolutions'}: give another file."
        )
    last = resolutions[-1]
    layers = [
        f"synthesis.b{r}.{part}"
        for r in resolutions
        for part in ("conv0", "conv1", "torgb")
        if f"synthesis.b{r}.{part}.weight" in state
    ]
    mapped = [f"mapping.fc{index}" for index in range(depth)]
    settings = Settings(arguments, attribute)
    settings.require_lrelu([*mapped, *(name for name in layers if not name.endswith("torgb"))])
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
    inputs = [config["z_dim"] + embedded[0], *widths[:-1]]
    multiplier = settings.multiplier(mapped, inputs)
    mapping = {"num_layers": depth, "lr_multiplier": multiplier}
    mapping |= {"layer_features": widths[0]} if depth > 1 and widths[0] != w_dim else {}
    mapping |= {"embed_features": embedded[0]} if embedded[0] not in (0, w_dim) else {}
    clamp = settings.clamp(layers)
    taps = settings.get("synthesis_kwargs", "resample_filter")
    config["mapping_kwargs"] = mapping
    # Keys as JSON has them: a card and a file then hold the same configuration.
    config["synthesis_kwargs"] = {
        "channels": {str(r): width for r, width in channels.items()},
        "architecture": architecture,
        "conv_clamp": None if clamp is None else float(clamp),
    }
    if not any(name.endswith((".noise_strength", ".noise_const")) for name in state):
        config["synthesis_kwargs"]["use_noise"] = False
    for r in resolutions:
        for part in ("", "conv0.", "conv1.", "skip."):
            if part in ("", "conv1.") or any(name.startswith(f"synthesis.b{r}.{part}") for name in state):
                state.setdefault(f"synthesis.b{r}.{part}resample_filter", fir_filter(TAPS if taps is None else taps))
    for name, taps in state.items():
        # Another order of the taps would show only in pictures, because convolutions turn a filter and others do not.
        if name.endswith(".resample_filter") and not (
            taps.ndim == 2 and taps.equal(taps.flip(0)) and taps.equal(taps.flip(1))
        ):
            raise LaceError(
                f"The low-pass filters of a StyleGAN2 must be the same from either end, and {quoted(name)} in the file "
                "is not: give a generator that was trained with such a filter."
            )
    return config


def assumptions(state: Mapping[str, Tensor], settings: Settings, multiplier: float | None = None) -> list[str]:
    """Return what a StyleGAN2's file does not tell and is assumed, one phrase each.

    Args:
        state: tensors in the file by the names of `StyleGAN2Network`.
        settings: settings in the file.
        multiplier: learning rate multiplier of the mapping that the user gives; None for none.

    Raises:
        LaceError: where the weights of the mapping contradict the multiplier that is assumed.

    Example:
        >>> assumptions({}, Settings({"mapping_kwargs": {"lr_multiplier": 0.02, "activation": "lrelu"}}))
        ['no bound of the features (conv_clamp)', 'low-pass filter [1, 3, 3, 1]']
    """
    assumed = []
    told = settings.attribute("mapping.fc0", "weight_gain"), settings.get("mapping_kwargs", "lr_multiplier")
    if multiplier is None and not any(isinstance(value, (int, float)) for value in told):
        check_spread(state, MULTIPLIER)
        assumed.append(f"learning rate multiplier {MULTIPLIER} of the mapping (lr_mlp)")
    groups = [settings.get(group, "activation") for group in ("mapping_kwargs", "synthesis_kwargs")]
    if all(value is None for value in (*groups, settings.attribute("mapping.fc0", "activation"))):
        assumed.append("leaky ReLU as activation")
    told = settings.attribute("synthesis.b4.conv1", "conv_clamp"), settings.get("synthesis_kwargs", "conv_clamp")
    if all(value is None for value in told) and not settings.is_complete:
        assumed.append("no bound of the features (conv_clamp)")
    has_filter = any(name.endswith("resample_filter") for name in state)
    if not has_filter and settings.get("synthesis_kwargs", "resample_filter") is None:
        assumed.append("low-pass filter [1, 3, 3, 1]")
    return assumed


class Settings:
    """Settings of a StyleGAN2 in a file: constructor arguments, in tables or flat, and attributes of its layers.

    Args:
        arguments: constructor arguments stored in the file.
        attribute: function (path of a submodule, name of an attribute) -> value in the file, or None.
        is_complete: whether an argument that is not stored has its usual value.

    Example:
        >>> Settings({"synthesis_kwargs": {"conv_clamp": 256}}).get("synthesis_kwargs", "conv_clamp")
        256
    """

    def __init__(
        self,
        arguments: Mapping[str, Any],
        attribute: Callable[[str, str], Any] = lambda path, name: None,
        is_complete: bool = False,
    ) -> None:
        self.arguments, self.attribute, self.is_complete = arguments, attribute, is_complete

    def get(self, group: str, name: str) -> Any:
        """Return an argument of `mapping_kwargs` or `synthesis_kwargs`, None where the file has none.

        In StyleGAN3's repository the arguments of the synthesis stand beside the tables.
        """
        table = self.arguments.get(group)
        value = table.get(name) if isinstance(table, Mapping) else None
        return self.arguments.get(name) if value is None and group == "synthesis_kwargs" else value

    def require_lrelu(self, layers: Iterable[str]) -> None:
        """Refuse (LaceError) a network with another activation than the leaky ReLU."""
        given = [self.attribute(layer, "activation") for layer in layers]
        given += [self.get(group, "activation") for group in ("mapping_kwargs", "synthesis_kwargs")]
        others = [value for value in given if value not in (None, "lrelu")]
        if others:
            raise LaceError(
                f"The activation of a StyleGAN2 must be lrelu, and that in the file is {quoted(others[0])}: give a "
                "generator that was trained with lrelu."
            )

    def multiplier(self, layers: list[str], inputs: list[int]) -> float:
        """Return the learning rate multiplier of the mapping, of `layers` with so many inputs each."""
        gains = [self.attribute(layer, "weight_gain") for layer in layers]
        found = {
            round(gain * math.sqrt(count), 9)
            for gain, count in zip(gains, inputs, strict=True)
            if isinstance(gain, float)
        }
        if len(found) > 1:
            raise LaceError(
                f"All layers of a mapping must have one learning rate multiplier, and those in the file have "
                f"{listed(sorted(found))}: give another file."
            )
        given = self.get("mapping_kwargs", "lr_multiplier")
        return found.pop() if found else float(given) if isinstance(given, (int, float)) else MULTIPLIER

    def clamp(self, layers: list[str]) -> float | None:
        """Return the bound of the features, the same for all layers; None for none."""
        values = {layer: self.attribute(layer, "conv_clamp") for layer in layers}
        # The picture outputs of some files do not tell.
        found = {value for layer, value in values.items() if value is not None or not layer.endswith("torgb")}
        if len(found) > 1:
            raise LaceError(
                f"All layers of a StyleGAN2 must have one bound of their features (conv_clamp), and those in the file "
                f"have {listed(sorted(map(str, found)))}: give another file."
            )
        value = found.pop() if found else None
        value = self.get("synthesis_kwargs", "conv_clamp") if value is None else value
        return float(value) if isinstance(value, (int, float)) else None


def known_settings(
    arguments: Mapping[Any, Any],
    own: tuple[str, ...] = ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    synthesis: tuple[str, ...] = (*SYNTHESIS_NAMES, *IGNORED),
    mapping: tuple[str, ...] = (*MAPPING_NAMES, *IGNORED_OF_MAPPING),
) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor arguments in a file without unknown ones that are switched off, and what was assumed.

    Args:
        arguments: the arguments, with tables `mapping_kwargs` and `synthesis_kwargs`, or flat.
        own: names of arguments of the whole network.
        synthesis: names of arguments of the synthesis.
        mapping: names of arguments of the mapping.

    Returns:
        The arguments that are known, and a phrase for each that is not.

    Raises:
        LaceError: for an unknown argument that is switched on, since it may change the pictures.

    Example:
        >>> known_settings({"z_dim": 4, "mapping_kwargs": {"freeze_all": 0}})
        ({'z_dim': 4, 'mapping_kwargs': {}}, ["setting 'freeze_all' of the file, which is 0, changes no picture"])
    """
    assumed: list[str] = []

    def known(table: Mapping[Any, Any], names: tuple[str, ...]) -> dict[str, Any]:
        for name, value in table.items():
            if name in names:
                continue
            if value or not isinstance(value, (list, tuple, dict, int, float, str, type(None))):
                raise LaceError(
                    f"The settings of a generator must be those of NVIDIA's networks, and the file has {quoted(name)}, "
                    "which is not known here and may change the pictures: give another file."
                )
            assumed.append(f"setting {quoted(name)} of the file, which is {quoted(value)[1:-1]}, changes no picture")
        return {name: value for name, value in table.items() if name in names}

    tables = {"mapping_kwargs": mapping, "synthesis_kwargs": synthesis}
    result = known(arguments, (*own, *synthesis, *tables))
    for group, names in tables.items():
        if isinstance(result.get(group), Mapping):
            result[group] = known(result[group], names)
    return result, assumed


def require_stored(tensors: Iterable[Tensor]) -> None:
    """Compare the size of tensors in float32 with that of the numbers in the file, which many names can share.

    Args:
        tensors: tensors as they were read.

    Raises:
        LaceError: where conversion would take many times the memory of the file.

    Example:
        >>> require_stored([torch.ones(3)])
    """
    tensors = [tensor for tensor in tensors if not tensor.is_meta]
    stored = {tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    needed = sum(4 * tensor.numel() for tensor in tensors)
    if needed > 8 * sum(stored.values()) + 2**26:
        raise LaceError(
            f"The tensors of a network must have numbers of their own, and those in the file share "
            f"{sum(stored.values()) / 2**20:.0f} MiB and would take {needed / 2**20:.0f} MiB: get the file again."
        )


def check_spread(state: Mapping[str, Tensor], multiplier: float) -> None:
    """Compare the weights of a mapping with the learning rate multiplier that is assumed for them.

    Args:
        state: tensors by the names of `StyleGAN2Network`.
        multiplier: the multiplier, above 0.

    Raises:
        LaceError: where the weights are much smaller or larger than such a multiplier makes them.

    Example:
        >>> check_spread({"mapping.fc0.weight": torch.randn(8, 8)}, 0.01)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The weights of the mapping must have a standard deviation near 100, ...
    """
    weights = [value.float() for name, value in state.items() if re.fullmatch(r"mapping\.fc\d+\.weight", name)]
    count = sum(weight.numel() for weight in weights)
    spread = math.sqrt(sum(float(weight.square().sum()) for weight in weights) / max(count, 1))
    if count >= 50 and not SPREAD[0] < spread * multiplier < SPREAD[1]:
        raise LaceError(
            f"The weights of the mapping must have a standard deviation near {1 / multiplier:.3g}, which follows from "
            f"the learning rate multiplier {multiplier:g} (lr_mlp) that the file does not tell, and theirs is "
            f"{spread:.3g}: convert the file with the multiplier of its training, lace-lightning convert IN OUT "
            f"--lr-multiplier {1 / spread if spread > 0 else 1:.1g}."
        )


def tensorflow_settings(static: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the static arguments of a TensorFlow StyleGAN2 to those of the PyTorch version.

    Args:
        static: arguments that were stored with the network, such as `mapping_lrmul` and `resample_kernel`.

    Returns:
        The tables `mapping_kwargs` and `synthesis_kwargs`, as far as the file tells.

    Raises:
        LaceError: for a setting that is not built here.

    Example:
        >>> tensorflow_settings({"mapping_lrmul": 0.02, "nonlinearity": "lrelu"})["mapping_kwargs"]
        {'lr_multiplier': 0.02}
    """
    names = {
        "mapping_kwargs": {"mapping_lrmul": "lr_multiplier", "mapping_nonlinearity": "activation"},
        "synthesis_kwargs": {
            "nonlinearity": "activation",
            "resample_kernel": "resample_filter",
            "conv_clamp": "conv_clamp",
        },
    }
    if not static.get("normalize_latents", True):
        raise LaceError(
            "The latents of a StyleGAN2 must be normalised, and the setting normalize_latents in the file is "
            f"{quoted(static['normalize_latents'])[1:-1]}: give another file."
        )
    return {
        group: {ours: static[theirs] for theirs, ours in table.items() if static.get(theirs) is not None}
        for group, table in names.items()
    }


def from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the variables of a TensorFlow StyleGAN2 to the state dict of a `StyleGAN2Network`.

    TensorFlow stores kernels as (kH, kW, I, O) and dense weights as (I, O), flips the kernel of an upsampling
    convolution, and adds 1 to the bias of a style when the network runs.

    Args:
        variables: float32 tensors by name, such as `mapping/Dense0/weight` or `synthesis/8x8/Conv0_up/weight`.

    Returns:
        Tensors by the names of `StyleGAN2Network`, without low-pass filters (see `stylegan2_config`).

    Raises:
        LaceError: for variables that are not those of a StyleGAN2 generator, and for those that are left over.

    Example:
        >>> from_tensorflow({"lod": torch.zeros([])})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The TensorFlow network in the file must be a StyleGAN2 generator, with ...
    """
    state: dict[str, Tensor] = {}
    blocks = sorted({int(match[1]) for name in variables if (match := re.match(r"synthesis/(\d+)x\1/", name))})
    variables = Used(variables)
    if not blocks or blocks[0] != 4 or len(blocks) > MAX_LAYERS or "synthesis/4x4/Const/const" not in variables:
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
        if f"{source}/noise_strength" not in variables and f"synthesis/noise{noise}" not in variables:
            return
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
            f"another shape ({in_one_line(error, 80)}): give the pickle of a StyleGAN2."
        ) from None
    variables.require_no_more("lod", "synthesis/lod", pattern=r"synthesis/noise\d+")
    return state


class Used(dict[str, Tensor]):
    """Tensors by name that remember which of them were taken.

    Args:
        tensors: the tensors.

    Example:
        >>> tensors = Used({"a": torch.ones(1), "b": torch.ones(1)})
        >>> _ = tensors["a"]
        >>> tensors.require_no_more()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The generator in the file must have no other tensors than a StyleGAN2, and ...
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.taken: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.taken.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        # The method of the base class would not remember.
        return self[name] if name in self else default  # noqa: SIM401

    def require_no_more(self, *known: str, pattern: str = "") -> None:
        """Refuse (LaceError) tensors that were not taken, whose names are neither known nor of a pattern."""
        left = [name for name in self if name not in self.taken and name not in known]
        left = [name for name in left if not (pattern and re.fullmatch(pattern, name))]
        if left:
            raise LaceError(
                f"The generator in the file must have no other tensors than a StyleGAN2, and it also has "
                f"{listed(left, 3)}: give the file of a StyleGAN2, or wrap the network with generator=module."
            )


def from_rosinality(found: Mapping[str, Tensor], average: Tensor | None) -> tuple[dict[str, Tensor], list[str]]:
    """Convert tensors of rosinality's layout to the state dict of a `StyleGAN2Network`.

    That layout multiplies a kernel by 1/√(fan in) when the network runs, before demodulation. Here the factor is
    multiplied into the weights.

    Args:
        found: tensors by name, such as `style.1.weight`, `convs.0.conv.weight` or `to_rgbs.0.bias`.
        average: mean w (Dw,); None where the file has none.

    Returns:
        Tensors by the names of `StyleGAN2Network`, without low-pass filters (see `stylegan2_config`), without
        `mapping.w_avg` where `average` is None and without the stored noise that the file does not have (see
        `fill_in`), and one phrase for each assumption.

    Raises:
        LaceError: for another low-pass filter than [1, 3, 3, 1], for missing tensors or other shapes, and for tensors
            that are left over.

    Example:
        >>> from_rosinality({"input.input": torch.zeros(1, 8, 4, 4)}, None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        lace_lightning.errors.LaceError: The file must hold a generator of rosinality's layout, and a tensor is ...
    """
    state: dict[str, Tensor] = {}
    found = Used(found)
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
        else:
            state[f"{target}.noise_const"] = constant.float().reshape(resolution, resolution)

    def to_rgb(source: str, target: str) -> None:
        state[f"{target}.weight"] = found[f"{source}.conv.weight"][0].float()
        state[f"{target}.affine.weight"] = found[f"{source}.conv.modulation.weight"].float()
        state[f"{target}.affine.bias"] = found[f"{source}.conv.modulation.bias"].float()
        state[f"{target}.bias"] = found[f"{source}.bias"].float().flatten()

    for name in found:
        if not name.endswith((".blur.kernel", ".upsample.kernel")):
            continue
        taps = found[name]
        if taps.shape != (4, 4) or not torch.allclose(taps.float() / taps.float().sum(), fir_filter(), atol=1e-4):
            raise LaceError(
                f"The generator must use the low-pass filter [1, 3, 3, 1], and {quoted(name)} in the file is another: "
                "give a generator that was trained with that filter."
            )
    try:
        depth = sum(re.fullmatch(r"style\.\d+\.weight", name) is not None for name in found)
        blocks = sum(re.fullmatch(r"to_rgbs\.\d+\.bias", name) is not None for name in found)
        if depth > MAX_LAYERS or 4 * 2 ** min(blocks, 64) > MAX_RESOLUTION:
            raise LaceError(
                f"A StyleGAN2 has at most {MAX_LAYERS} mapping layers and pictures of {MAX_RESOLUTION} pixels a side, "
                f"and the file has {depth} mapping layers and {blocks + 1} resolutions: give another file."
            )
        for index in range(depth):
            state[f"mapping.fc{index}.weight"] = found[f"style.{index + 1}.weight"].float()
            state[f"mapping.fc{index}.bias"] = found[f"style.{index + 1}.bias"].float()
        state["synthesis.b4.const"] = found["input.input"][0].float()
        layer("conv1", "synthesis.b4.conv1", 0, 4)
        to_rgb("to_rgb1", "synthesis.b4.torgb")
        for block in range(blocks):
            resolution = 8 * 2**block
            layer(f"convs.{2 * block}", f"synthesis.b{resolution}.conv0", 2 * block + 1, resolution)
            layer(f"convs.{2 * block + 1}", f"synthesis.b{resolution}.conv1", 2 * block + 2, resolution)
            to_rgb(f"to_rgbs.{block}", f"synthesis.b{resolution}.torgb")
        if average is None:
            assumed.append(f"mean w: over {AVERAGED} latents")
        else:
            # Programs built on this layout store it once for each layer.
            rows = average.float().reshape(-1, average.shape[-1] if average.ndim else 1)
            state["mapping.w_avg"] = rows[0] if len(rows) and rows.equal(rows[:1].expand_as(rows)) else rows.flatten()
    except (KeyError, IndexError, RuntimeError) as error:
        raise LaceError(
            "The file must hold a generator of rosinality's layout, and a tensor is missing or of another shape "
            f"({in_one_line(error, 80)}): get it again."
        ) from None
    found.require_no_more(pattern=r"noises\.noise_\d+")
    return state, assumed


def missing_parts(state: Mapping[str, Tensor], resolutions: Iterable[int], w_dim: int) -> dict[str, Tensor]:
    """Return tensors without memory in place of the stored noise and the mean w that rosinality's file left out.

    Args:
        state: tensors by the names of `StyleGAN2Network`.
        resolutions: sides of the feature maps.
        w_dim: Dw.

    Example:
        >>> sorted(missing_parts({}, [4], 6))
        ['mapping.w_avg', 'synthesis.b4.conv1.noise_const']
    """
    shapes: dict[str, tuple[int, ...]] = {
        f"synthesis.b{r}.{part}.noise_const": (r, r)
        for r in resolutions
        for part in ("conv0", "conv1")
        if r > 4 or part == "conv1"
    }
    shapes["mapping.w_avg"] = (w_dim,)
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if name not in state}


@torch.no_grad()
def fill_in(mapping: MappingNetwork, missing: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stored noise, drawn from the number of its layer as seed, and the mean w over 10,000 latents.

    Args:
        mapping: the mapping network, whose shapes have been compared with the file.
        missing: tensors whose names and shapes are needed (see `missing_parts`).

    Example:
        >>> mapping = MappingNetwork(4, 0, 6, num_layers=1)
        >>> fill_in(mapping, missing_parts({}, [4], 6))["mapping.w_avg"].shape
        torch.Size([6])
    """
    result = {}
    for name, tensor in missing.items():
        if name == "mapping.w_avg":
            parts = [
                mapping(normal(torch.arange(first, first + 1000), (mapping.z_dim,))).mean(0)
                for first in range(0, AVERAGED, 1000)
            ]
            result[name] = torch.stack(parts).mean(0)
        else:
            block, layer = re.findall(r"\d+", name)[:2]
            number = 0 if block == "4" else 2 * int(math.log2(int(block))) - (5 if layer == "0" else 4)
            result[name] = normal(torch.tensor([number]), (1, *tensor.shape))[0, 0]
    return result
