"""Names of the face networks, and their files: 8-bit weights stay 8-bit, with a minimum and a scale for each tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from ..artifacts import load_tensors, save_tensors
from ..errors import LaceError, in_one_line, suggest
from ..weights import weight_path
from .age_and_gender import AgeNetwork, GenderNetwork
from .dcgan import DCGAN
from .face_api import AgeGenderNetwork, DescriptorNetwork, ExpressionNetwork, LandmarkNetwork, TinyLandmarkNetwork
from .fer import FerNetwork
from .lite0 import EfficientNetLite0

# Class of each network by the name of its shipped weights.
FACE_NETWORKS: Mapping[str, type[nn.Module]] = {
    "faces_generator": DCGAN,
    "face_api_expression": ExpressionNetwork,
    "face_api_landmarks": LandmarkNetwork,
    "face_api_landmarks_tiny": TinyLandmarkNetwork,
    "face_api_age_gender": AgeGenderNetwork,
    "face_api_descriptor": DescriptorNetwork,
    "fer_expression": FerNetwork,
    "age_and_gender_gender": GenderNetwork,
    "age_and_gender_age": AgeNetwork,
    "lite0_features": EfficientNetLite0,
}


def save_face_network(
    path: str | os.PathLike[str],
    name: str,
    tensors: Mapping[str, Tensor],
    quantized: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    """Write the weights of a face network as safetensors, atomically.

    Args:
        path: file to write.
        name: a key of `FACE_NETWORKS`.
        tensors: tensors by the names of the network; uint8 where they are quantized.
        quantized: minimum and scale by name of a quantized tensor: value = scale * stored + minimum.

    Raises:
        LaceError: when the tensors are not those of the network, or the file cannot be written.
    """
    _loaded(name, tensors, quantized or {}, str(path))
    quantized = {key: list(value) for key, value in (quantized or {}).items()}  # type: ignore[misc]
    save_tensors(path, tensors, {"kind": "face_network", "network": name, "quantized": quantized})


def load_face_network(name: str, path: str | os.PathLike[str] | None = None) -> nn.Module:
    """Return a face network with its weights, frozen and in evaluation mode.

    Args:
        name: a key of `FACE_NETWORKS`.
        path: file of the weights; None for those of this package.

    Returns:
        The network on the CPU, in float32.

    Raises:
        LaceError: for an unknown name, and a file that is missing, damaged or of another network.

    Example:
        >>> import torch
        >>> tuple(load_face_network("fer_expression")(torch.zeros(2, 3, 64, 64)).shape)
        (2, 7)
    """
    if name not in FACE_NETWORKS:
        raise LaceError(
            f"The face networks are {', '.join(FACE_NETWORKS)}, received '{name}'.{suggest(name, FACE_NETWORKS)}"
        )
    source = weight_path(name if path is None else path)
    tensors, config = load_tensors(source)
    if config.get("kind") != "face_network" or config.get("network") != name:
        raise LaceError(
            f"The weights '{source}' must be of the face network '{name}', and are of "
            f"'{config.get('network', config.get('kind'))}': give the file of this network."
        )
    return _loaded(name, tensors, config.get("quantized") or {}, str(source))


def _loaded(
    name: str, tensors: Mapping[str, Tensor], quantized: Mapping[str, tuple[float, float]], source: str
) -> nn.Module:
    values = {
        key: tensor.float() * quantized[key][1] + quantized[key][0] if key in quantized else tensor
        for key, tensor in tensors.items()
    }
    network = FACE_NETWORKS[name]()
    try:
        network.load_state_dict(values)
    except RuntimeError as error:
        raise LaceError(
            f"The weights '{source}' must be those of the face network '{name}' and are not ({in_one_line(error)}): "
            "make them again with python -m lace_lightning.faces.convert."
        ) from error
    return network.eval().requires_grad_(False)
