"""The recorded reference problems as objects of this package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lace_lightning.classifiers import AttributeClassifier
from lace_lightning.energies import Energy, Pullback
from lace_lightning.generators.stylegan2 import TruncatedMapping
from lace_lightning.generators.stylegan2_networks import MappingNetwork
from lace_lightning.schema import Attribute, Schema

CLASSES = Schema("classes", (Attribute("label", "discrete", 10),))
PORTRAITS = Schema(
    "portraits",
    (
        Attribute("glasses"),
        Attribute("yaw", "continuous"),
        Attribute("haircolor", "discrete", 5),
        Attribute("age", "continuous"),
        Attribute("smile"),
    ),
)


class Oracle:
    """Arrays of one file: `oracle["name"]` is a tensor."""

    def __init__(self, path: Path) -> None:
        self.data = np.load(path, allow_pickle=False)
        self.meta = json.loads(str(self.data["meta_json"]))

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.data[name]))

    def names(self, prefix: str) -> list[str]:
        return [name for name in self.data.files if name.startswith(prefix)]

    def mapping(self, num_layers: int, truncation: float = 1.0) -> TruncatedMapping:
        network = MappingNetwork(64, 0, 64, num_layers)
        network.load_state_dict(
            {
                name: self[f"mapping/{name}"] if f"mapping/{name}" in self.data.files else self["mean_w"][0]
                for name in network.state_dict()
            }
        )
        return TruncatedMapping(network, truncation).requires_grad_(False)

    def classifier(self, prefix: str, head: str, schema: Schema) -> AttributeClassifier:
        hidden = [self[f"{prefix}/net.{index}.weight"].shape[0] for index in (0, 3, 6)]
        result = AttributeClassifier(schema, "w", "mlp", {"input_dim": 64, "hidden": hidden}).requires_grad_(False)
        state = {}
        for index, name in enumerate(("net.0", "net.3", "net.6", head)):
            state[f"weight{index}"] = self[f"{prefix}/{name}.weight"].flatten(1).T[None]
            state[f"bias{index}"] = self[f"{prefix}/{name}.bias"][None]
        result.network.load_state_dict(state, strict=False)
        return result


class OneByOne:
    """Five single-attribute networks as one map w -> logits of the schema."""

    def __init__(self, oracle: Oracle) -> None:
        self.parts = [oracle.classifier(f"clf_{a.name}", "heads", Schema(a.name, (a,))) for a in PORTRAITS]

    def __call__(self, w: Tensor) -> Tensor:
        return torch.cat([part(w) for part in self.parts], dim=1)


def on_z(energy: Energy, classifier: object, mapping: object) -> Energy:
    return Pullback(Pullback(energy, classifier), mapping)  # type: ignore[arg-type]
