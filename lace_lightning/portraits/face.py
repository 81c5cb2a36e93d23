"""Cartoon portraits as a deterministic function of twelve attributes and an identity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LaceError
from ..schema import Attribute, Labels, Schema
from .canvas import Canvas, Shape, below, box, crescent, egg, ellipse, stroke

PORTRAITS_SCHEMA = Schema(
    "portraits",
    (
        Attribute("smile", "discrete", 2, ("no", "yes")),
        Attribute("glasses", "discrete", 2, ("no", "yes")),
        Attribute("gender", "discrete", 2, ("female", "male")),
        Attribute("beard", "discrete", 2, ("no", "yes")),
        Attribute("haircolor", "discrete", 5, ("black", "brown", "blond", "red", "grey")),
        *(Attribute(name, "continuous") for name in ("yaw", "age", "pitch", "bald", "width", "light0", "light3")),
    ),
)

# Factors of the appearance of a person that are not attributes; each in [0, 1].
IDENTITY = (
    "skin",
    "blush",
    "eye_spacing",
    "eye_size",
    "eye_colour",
    "nose_width",
    "nose_length",
    "brow_weight",
    "brow_tilt",
    "mouth_width",
    "ears",
    "fringe",
    "hair_shade",
    "clothes_hue",
    "clothes_shade",
    "collar",
    "background_hue",
    "background_shade",
    "frame_hue",
    "frame_size",
)

_HAIR = ((0.10, 0.09, 0.12), (0.40, 0.22, 0.10), (0.95, 0.78, 0.36), (0.80, 0.30, 0.09), (0.74, 0.75, 0.78))
_SKIN = ((0.99, 0.86, 0.76), (0.93, 0.73, 0.58), (0.78, 0.55, 0.39), (0.52, 0.34, 0.24))
_EYES = ((0.25, 0.14, 0.07), (0.16, 0.42, 0.70), (0.18, 0.48, 0.26), (0.38, 0.40, 0.44))
# The largest angles in radians of a head that is turned sideways, and up or down.
_YAW, _PITCH = 0.62, 0.36
# Half of the side and the middle row of the square of the plane that is drawn.
_EXTENT, _MIDDLE = 0.86, 0.03
# Number of pictures that fit into the cache of a processor.
_CHUNK = 32


def render(labels: Labels, identity: Tensor, resolution: int = 64) -> Tensor:
    """Draw portraits from their attributes and identities.

    Args:
        labels: labels (B, 12) of `PORTRAITS_SCHEMA`.
        identity: identity factors (B, 20) in [0, 1], in the order of `IDENTITY`.
        resolution: side of the pictures in pixels, at least 8.

    Returns:
        Pictures (B, 3, R, R) in [-1, 1].

    Raises:
        LaceError: when the schema is another, a value is out of range, or the number of factors or the size is wrong.

    Example:
        >>> labels = Labels.constant(PORTRAITS_SCHEMA, 2, smile=1.0)
        >>> tuple(render(labels, torch.full((2, len(IDENTITY)), 0.5), 16).shape)
        (2, 3, 16, 16)
    """
    _check(labels, identity, resolution)
    chunk = len(identity) if identity.is_cuda else _CHUNK
    parts = [
        _draw(labels[first : first + chunk], identity[first : first + chunk], resolution)
        for first in range(0, len(identity), max(1, chunk))
    ]
    return torch.cat(parts) if parts else torch.zeros(0, 3, resolution, resolution, device=identity.device)


def _check(labels: Labels, identity: Tensor, resolution: int) -> None:
    if labels.schema != PORTRAITS_SCHEMA:
        raise LaceError(
            f"Portraits need labels of the schema 'portraits', received '{labels.schema.name}': use PORTRAITS_SCHEMA."
        )
    if identity.shape != (len(labels), len(IDENTITY)):
        raise LaceError(
            f"{len(labels)} portraits need identity factors of shape ({len(labels)}, {len(IDENTITY)}), received "
            f"{tuple(identity.shape)}: draw them with sample_identity."
        )
    if resolution < 8:
        raise LaceError(f"Portraits need at least 8 pixels a side, received {resolution}: set a larger resolution.")
    high = torch.tensor(
        [a.num_classes - 1.0 if a.kind == "discrete" else 1.0 for a in PORTRAITS_SCHEMA], device=labels.values.device
    )
    fits = ((labels.values >= 0) & (labels.values <= high)).all(0).tolist()
    wrong = [name for name, good in zip(PORTRAITS_SCHEMA.names, fits, strict=True) if not good]
    if wrong:
        raise LaceError(
            f"Continuous attributes must lie in [0, 1] and classes below their number, received other values of "
            f"{', '.join(wrong)}: correct these labels."
        )


def _draw(labels: Labels, identity: Tensor, resolution: int) -> Tensor:
    person = _Person(labels, identity)
    canvas = Canvas(len(identity), resolution, identity.device, _EXTENT, _MIDDLE)
    for layer in (
        _background,
        _back_hair,
        _shoulders,
        _head,
        _wrinkles,
        _beard,
        _nose_and_mouth,
        _eyes,
        _hair,
        _glasses,
    ):
        layer(canvas, person)
    return _lit(canvas, person)


def _blend(palette: tuple[tuple[float, float, float], ...], position: Tensor) -> Tensor:
    """Return colours (B, 3) at `position` (B,) in [0, 1] along a palette."""
    colours = torch.tensor(palette, device=position.device)
    place = position * (len(palette) - 1)
    low = place.long().clamp(0, len(palette) - 2)
    return torch.lerp(colours[low], colours[low + 1], (place - low)[:, None])


def _hue(hue: Tensor, saturation: float, value: Tensor) -> Tensor:
    """Return colours (B, 3) of a hue (B,), a saturation and a value (B,)."""
    thirds = torch.tensor([0.0, 2 / 3, 1 / 3], device=hue.device)
    pure = (((hue[:, None] + thirds) % 1 * 6 - 3).abs() - 1).clamp(0, 1)
    return value[:, None] * (1 + saturation * (pure - 1))


class _Person:
    """Positions and colours of the parts of a face: numbers (B,) and colours (B, 3).

    Features lie on a ball that is turned and tilted.
    """

    def __init__(self, labels: Labels, identity: Tensor) -> None:
        columns = dict(zip(PORTRAITS_SCHEMA.names, labels.values.to(identity).unbind(1), strict=True))
        self._given = {**columns, **dict(zip(IDENTITY, identity.unbind(1), strict=True))}
        self.male, self.female = self.gender, 1 - self.gender
        self.turn, self.nod = (self.yaw * 2 - 1) * _YAW, (self.pitch * 2 - 1) * _PITCH
        # The farther side comes first, so that the nearer side covers it.
        far = torch.where(self.turn < 0, -1.0, 1.0)
        self.sides = far, -far
        # Children have a small, low face and big eyes; ears and nose grow with age.
        self.child = ((0.5 - self.age) / 0.5).clamp(0, 1)
        self.old = ((self.age - 0.4) / 0.6).clamp(0, 1)
        self.size = 1 - 0.20 * self.child
        self.rx = (0.37 + 0.17 * self.width) * self.size
        self.ry = (0.60 + 0.03 * self.old) * self.size
        self.cx, self.cy = 0.05 * torch.sin(self.turn), 0.02 + 0.14 * self.child
        self.jaw = -0.16 + 0.22 * self.male - 0.06 * self.child
        self.skin_colour = _blend(_SKIN, self.skin)
        hair = torch.tensor(_HAIR, device=identity.device)[self.haircolor.long()]
        self.hair_colour = (hair * (0.86 + 0.28 * self.hair_shade[:, None])).clamp(0, 1)

    def __getattr__(self, name: str) -> Tensor:
        """Return an attribute or a factor of identity."""
        if name == "_given" or name not in self._given:
            raise AttributeError(name)
        return self._given[name]

    def at(self, side: float | Tensor, down: float | Tensor, depth: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Return the position (x, y) of a point of the face and the visible share of its width.

        Args:
            side: angle from the front to the side in radians.
            down: angle from the front downwards in radians.
            depth: distance from the centre of the head in units of its radius.
        """
        azimuth, elevation = side + self.turn, down - self.nod
        x = self.cx + depth * self.rx * torch.sin(azimuth)
        y = self.cy + depth * self.ry * torch.sin(elevation)
        return x, y, torch.cos(azimuth).clamp_min(0.25)

    def all(self, value: float) -> Tensor:
        """Return the same value (B,) for every person."""
        return torch.full_like(self.cx, value)

    def head(self, grow: Tensor | float = 0.0) -> Shape:
        """Return the outline of the head, larger by `grow` on every side."""
        return egg(self.cx, self.cy, self.rx + grow, self.ry + grow, self.jaw)


def _background(canvas: Canvas, p: _Person) -> None:
    top = _hue(p.background_hue, 0.38, 0.62 + 0.33 * p.background_shade)
    ramp = 0.80 + 0.20 * (canvas.y + 1) / 2
    canvas.image.copy_(top[:, :, None, None] * ramp[None])


def _back_hair(canvas: Canvas, p: _Person) -> None:
    """Paint long hair behind the head."""
    wide = p.rx + 0.17 * p.size
    length = 0.50 + 0.16 * p.fringe
    shade = p.hair_colour * 0.78
    canvas.paint(ellipse(p.cx, p.cy - 0.08, wide, p.ry + 0.06), shade, p.female)
    canvas.paint(box(p.cx, p.cy + 0.30, wide, length, p.all(0.2)), shade, p.female)


def _shoulders(canvas: Canvas, p: _Person) -> None:
    clothes = _hue(p.clothes_hue, 0.62, 0.40 + 0.5 * p.clothes_shade)
    bottom = p.cy + p.ry
    neck = 0.17 + 0.06 * p.male - 0.03 * p.child
    canvas.paint(box(p.cx * 0.5, bottom, neck, p.all(0.30), p.all(0.05)), p.skin_colour * 0.82)
    shoulder = (0.66 + 0.16 * p.male) * (1 - 0.15 * p.child)
    canvas.paint(ellipse(p.all(0.0), bottom + 0.62, shoulder, p.all(0.50)), clothes)
    canvas.paint(ellipse(p.cx * 0.5, bottom + 0.12, neck + 0.03, 0.06 + 0.10 * p.collar), p.skin_colour * 0.88)


def _head(canvas: Canvas, p: _Person) -> None:
    grown = (0.75 + 0.5 * p.age) * (0.085 + 0.05 * p.ears)
    facing = torch.sin(p.turn)
    for side in p.sides:
        # The nearer ear is drawn over the cheek, the other one behind the head.
        x = p.cx + side * p.rx * (0.98 - 0.45 * (side * facing).clamp_min(0))
        ear = ellipse(x, p.cy - 0.02 - 0.5 * p.nod, grown * 0.75, grown * 1.25)
        canvas.paint(ear, p.skin_colour * 0.90)
    canvas.paint(p.head(), p.skin_colour)
    for side in p.sides:
        shown = (-side * facing * 4).clamp(0, 1)
        x = p.cx + side * p.rx * (0.98 - 0.30 * (-side * facing).clamp_min(0))
        canvas.paint(ellipse(x, p.cy - 0.02 - 0.5 * p.nod, grown * 0.8, grown * 1.25), p.skin_colour * 0.86, shown)
    pink = torch.lerp(p.skin_colour, torch.tensor([0.95, 0.35, 0.35], device=p.cx.device), 0.45)
    for side in p.sides:
        x, y, seen = p.at(side * 0.62, 0.34)
        cheek = ellipse(x, y, 0.11 * p.size * seen, 0.085 * p.size)
        canvas.paint(cheek, pink, (0.25 + 0.25 * p.blush) * (0.4 + 0.6 * p.child))


def _wrinkles(canvas: Canvas, p: _Person) -> None:
    """Paint lines on forehead and cheeks that appear with age."""
    dark = p.skin_colour * torch.tensor([0.70, 0.60, 0.55], device=p.cx.device)
    thin = p.all(0.016)
    for down in (-0.62, -0.50):
        x, y, seen = p.at(0.0, down)
        canvas.paint(stroke(x, y, 0.20 * seen, thin, p.all(-0.015), p.all(0.0)), dark, p.old * (1 - 0.2 * p.male))
    for side in p.sides:
        x, y, seen = p.at(side * 0.52, 0.42)
        canvas.paint(stroke(x, y, 0.045 * seen, thin * 1.2, p.all(0.0), side * 1.9), dark, p.old)
        x, y, seen = p.at(side * 0.44, 0.13)
        canvas.paint(stroke(x, y, 0.10 * seen, thin, p.all(-0.03), p.all(0.0)), dark, p.old * 0.9)


def _beard(canvas: Canvas, p: _Person) -> None:
    x, y, seen = p.at(0.0, 0.10)
    cheeks = ellipse(x, y - 0.16, p.rx * 0.92, p.ry * 0.62)
    whiskers = (p.head(p.all(0.05)) & below(p.cy + 0.06 - 0.3 * p.nod)) - cheeks
    # Darker than the hair, so that a fair beard is not taken for hair beside the face.
    colour = p.hair_colour * 0.72
    canvas.paint(whiskers, colour, p.beard)
    x, y, seen = p.at(0.0, 0.46, 1.02)
    canvas.paint(stroke(x, y, 0.19 * p.size * seen, p.all(0.045), p.all(0.07), p.all(0.0)), colour, p.beard)


def _nose_and_mouth(canvas: Canvas, p: _Person) -> None:
    grown = 0.75 + 0.45 * p.age
    x, y, _ = p.at(0.0, 0.24, 1.12)
    half = (0.055 + 0.035 * p.nose_width) * grown
    canvas.paint(ellipse(x, y - 0.05, half * 0.75, (0.10 + 0.06 * p.nose_length) * grown), p.skin_colour * 0.93)
    canvas.paint(ellipse(x, y + 0.02, half, half * 0.8), p.skin_colour * 0.80)
    x, y, seen = p.at(0.0, 0.62, 1.02)
    half = (0.21 + 0.05 * p.mouth_width) * seen * p.size
    lips = torch.lerp(
        p.skin_colour * 0.55, torch.tensor([0.80, 0.16, 0.22], device=x.device), (0.20 + 0.75 * p.female)[:, None]
    )
    # A smile shows the teeth, else the mouth is a line whose ends hang a little.
    top = y - 0.05
    white, dark = (
        torch.full_like(lips, 0.98),
        torch.zeros_like(lips) + torch.tensor([0.35, 0.07, 0.09], device=x.device),
    )
    canvas.paint(crescent(x, top - 0.02, half * 1.18, p.all(0.0), p.all(0.235)), lips, p.smile)
    canvas.paint(crescent(x, top, half, p.all(0.02), p.all(0.18)), dark, p.smile)
    canvas.paint(crescent(x, top, half * 0.96, p.all(0.01), p.all(0.11)), white, p.smile)
    closed = crescent(x, y + 0.01, half * 0.80, -0.050 - 0.012 * p.female, 0.004 + 0.030 * p.female)
    canvas.paint(closed, lips, 1 - p.smile)


def _eyes(canvas: Canvas, p: _Person) -> None:
    black = torch.full_like(p.skin_colour, 0.08)
    white = torch.full_like(p.skin_colour, 0.98)
    iris = _blend(_EYES, p.eye_colour)
    brow = p.hair_colour * 0.62
    radius = (0.092 + 0.022 * p.eye_size) * (1 + 0.30 * p.child - 0.10 * p.old)
    for side in p.sides:
        x, y, seen = p.at(side * (0.42 + 0.10 * p.eye_spacing), -0.10)
        across = radius * (0.35 + 0.65 * seen)
        lashes = stroke(x, y - 0.75 * radius, across * 1.40, p.all(0.03), p.all(0.06), side * 0.15)
        canvas.paint(ellipse(x, y, across * 1.12, radius * 1.12), black)
        canvas.paint(ellipse(x, y + 0.1 * radius, across, radius * 0.98), white)
        look = x + 0.35 * radius * torch.sin(p.turn)
        canvas.paint(ellipse(look, y + 0.12 * radius - 0.3 * radius * p.nod, across * 0.66, radius * 0.66), iris)
        canvas.paint(ellipse(look, y + 0.12 * radius - 0.3 * radius * p.nod, across * 0.34, radius * 0.34), black)
        canvas.paint(lashes, black, p.female)
        x, y, seen = p.at(side * (0.44 + 0.10 * p.eye_spacing), -0.36)
        weight = 0.020 + 0.022 * p.brow_weight + 0.012 * p.male
        canvas.paint(stroke(x, y, 0.135 * seen * p.size, weight, p.all(0.03), side * (0.25 * p.brow_tilt - 0.05)), brow)


def _hair(canvas: Canvas, p: _Person) -> None:
    """Paint hair on the head around the face; with `bald` the hairline is higher."""
    full = 1 - p.bald
    skull = ellipse(p.cx, p.cy - 0.02, p.rx + 0.03 + 0.06 * full, p.ry + 0.03 + 0.10 * full)
    line = p.cy - p.ry * (0.50 + 0.12 * p.fringe + 0.62 * p.bald) - 0.45 * p.nod * p.ry
    low = p.cy + p.ry * 1.3
    middle, half = (line + low) / 2, (low - line) / 2
    shift = p.cx + 0.55 * p.rx * torch.sin(p.turn)
    opening = ellipse(shift, middle, p.rx * (0.90 + 0.12 * p.bald), half)
    sides = p.cy + p.ry * (-0.05 + 0.15 * p.fringe)
    cap = (skull - opening) - below(sides)
    canvas.paint(cap, p.hair_colour)
    # Long hair falls in front of the ears.
    for side in p.sides:
        x = p.cx + side * (p.rx + 0.06 * p.size) - 0.10 * torch.sin(p.turn)
        lock = ellipse(x, p.cy + 0.18, 0.115 * p.size, 0.52 * p.size)
        canvas.paint(lock, p.hair_colour * 0.92, p.female)


def _glasses(canvas: Canvas, p: _Person) -> None:
    frame = _hue(p.frame_hue, 0.7, p.all(0.22))
    tint = torch.full_like(frame, 0.75) + torch.tensor([0.0, 0.08, 0.15], device=p.cx.device)
    radius = (0.185 + 0.025 * p.frame_size) * (1 - 0.06 * p.child)
    thick = p.all(0.030)
    for side in p.sides:
        x, y, seen = p.at(side * (0.42 + 0.10 * p.eye_spacing), -0.09, 1.02)
        lens = ellipse(x, y, radius * (0.30 + 0.70 * seen), radius)
        canvas.paint(lens, tint, 0.25 * p.glasses)
        canvas.paint(lens.outline(thick), frame, p.glasses)
        end = p.cx + side * p.rx * 0.98
        middle, half = (x + side * radius * seen + end) / 2, ((end - x) * side - radius * seen).clamp_min(0.01) / 2
        canvas.paint(stroke(middle, y - 0.03, half, thick * 0.9, p.all(0.0), p.all(0.0)), frame, p.glasses)
    x, y, seen = p.at(0.0, -0.10, 1.05)
    canvas.paint(stroke(x, y, 0.06 * seen, thick * 0.9, p.all(0.02), p.all(0.0)), frame, p.glasses)


def _lit(canvas: Canvas, p: _Person) -> Tensor:
    """Return the pictures in [-1, 1] with brightness `light0` and light from the left or the right, `light3`."""
    ambient = 0.55 + 0.60 * p.light0
    slope = (p.light3 * 2 - 1) * 0.50
    light = ambient[:, None, None] * (1 + slope[:, None, None] * canvas.x.clamp(-0.9, 0.9))
    return canvas.image.mul_(light[:, None]).mul_(2).sub_(1).clamp_(-1, 1)
