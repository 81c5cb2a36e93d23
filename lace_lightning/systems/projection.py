"""Projection of pictures: latents of a generator whose pictures are near given ones, by optimisation."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifiers.embedding import Embedding
from ..data.photographs import photograph_files, read_photograph
from ..errors import LaceError, suggest
from ..generators import Generator
from ..generators.whitening import Whitening
from ..labelers import Labeler
from ..pictures.convert import at_a_time, from_bytes, with_channels
from ..progress import steps
from ..seeds import RunSeeds

Features = Callable[[Tensor], Tensor]
Network = Labeler | Embedding | Features
Networks = Network | Sequence[Network] | None
SPACES = ("z", "w", "w+")
# Largest side of pictures that candidates are compared at, and smallest side of the pyramid of a picture.
COMPARED_SIDE, SMALLEST_SIDE = 64, 8
# Share of the steps after which one start of each picture goes on, and of the steps of the warm-up.
TRIAL, WARM_UP = 0.2, 0.05
MOMENTS = (0.9, 0.99)
# Share of the steps that compare pixels alone, which have fewer local minima than features and take less time.
PIXELS_FIRST = 0.5
# Additional weight of the prior at the first step; it falls to 0 as (1 - t)². Latents that leave the prior early end in
# local minima: without it the pixels of held-out faces are .086 away in z, with it .046.
HELD = 0.05
# Largest rates of Adam in z and in the whitened w.
RATES = {"z": 0.5, "w": 0.2, "w+": 0.2}


@dataclass(frozen=True)
class ProjectionOptions:
    """Options of a projection.

    For a picture x and u, the whitened w (`Whitening`), a projection minimises P(G(w), x) + φ·Σ_k ‖f_k(G(w)) -
    f_k(x)‖²/v_k + π·mean(ū²) + σ·mean((u_l - ū)²), where ū is the mean of u_l over the style layers, and v_k is the
    total variance of the features of network k over the prior. P is the mean squared difference of pixels, summed over
    a pyramid of half, quarter ... resolution, and of neighbouring pixels' differences. For z the last terms are
    π·mean(z²). Pixels are in [-1, 1].

    Args:
        space: z; w (one for all layers); w+ (one for each layer); None for the last of them that the generator has.
        steps: steps of Adam, at least 1.
        starts: points at which the optimisation begins, at least 1: the nearest of samples of the prior, and the mean w
            as the last of several. After a fifth of the steps the best goes on alone.
        candidates: samples of the prior that starts are chosen from, at least 1; None for 1000, fewer where pictures
            are larger than 64x64.
        learning_rate: largest rate of Adam, above 0, in units of the prior's standard deviation; it falls as a cosine;
            None for 0.5 in z and 0.2 elsewhere.
        prior: π, the weight that holds the latent near the mean of the prior, 0 or more.
        spread: σ, the weight that holds the style layers together in w+, 0 or more.
        features: φ, the weight of the features, 0 or more; they are compared in the second half of the steps.
        seed: seed of the candidates, at least 0.

    Raises:
        LaceError: for a value out of range, and an unknown space.

    References:
        Abdal, Qin and Wonka, "Image2StyleGAN", ICCV 2019, for w+; Karras et al. (arXiv 1912.04958), Appendix D, for the
        projection to w; Wulff and Torralba (arXiv 2009.06529) for the prior of w.

    Example:
        >>> ProjectionOptions(space="w+", steps=100).starts
        3
    """

    space: str | None = None
    steps: int = 300
    starts: int = 3
    candidates: int | None = None
    learning_rate: float | None = None
    prior: float = 3e-4
    spread: float = 3e-4
    features: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.space is not None and self.space not in SPACES:
            raise LaceError(
                f"The space of a projection must be one of {', '.join(SPACES)}, received '{self.space}'."
                f"{suggest(self.space, SPACES)}"
            )
        for name, least in (("steps", 1), ("starts", 1), ("candidates", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise LaceError(f"{name} of a projection must be at least {least}, received {value}: raise it.")
        for name in ("prior", "spread", "features"):
            if not 0 <= getattr(self, name) < math.inf:
                raise LaceError(
                    f"{name} of a projection must be a finite number of at least 0, received {getattr(self, name)}: 0 "
                    "switches it off."
                )
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise LaceError(
                f"learning_rate of a projection must be above 0, received {self.learning_rate}: set it to 0.2."
            )

    def space_of(self, generator: Generator) -> str:
        """Return the space: the given one, or the last that the generator has.

        Raises:
            LaceError: for a space that the generator does not have.
        """
        found = "w+" if generator.has_layers else "w" if generator.has_w else "z"
        if self.space is not None and SPACES.index(self.space) > SPACES.index(found):
            raise LaceError(
                f"A projection to {self.space} needs a generator that has it, and {type(generator).__name__} has "
                f"{found}: set the space to {found}."
            )
        return self.space or found


@dataclass
class Projected:
    """Latents whose pictures are near given ones.

    Args:
        space: z, w or w+, in which the latents were found.
        z: z (B, Dz) for the space z; None elsewhere.
        w: w (B, Dw) for the spaces z and w; None for w+.
        ws: styles (B, L, Dw).
        images: pictures of the latents (B, C, H, W) in [-1, 1].
        rmse: root of the mean squared difference of pixels in [-1, 1] (B,).
        distance: root of the mean of ‖f_k - f_k(x)‖²/v_k over the networks (B,); √2 is usual for two samples of the
            prior; None without features.
        identity: distance of the identity embedding (B,), from 0 to 2; None without an embedding.
        closest: the smallest of the identity distances of samples of the prior to the picture (B,); None likewise.

    Example:
        >>> from lace_lightning.examples import tiny_generator
        >>> generator = tiny_generator()
        >>> images = generator(generator.prior(2))
        >>> projected = project(generator, images, options=ProjectionOptions(steps=5, candidates=8))
        >>> projected.space, projected.z.shape, projected.rmse.shape
        ('z', torch.Size([2, 4]), torch.Size([2]))
    """

    space: str
    z: Tensor | None
    w: Tensor | None
    ws: Tensor
    images: Tensor
    rmse: Tensor
    distance: Tensor | None = None
    identity: Tensor | None = None
    closest: Tensor | None = None

    @property
    def latents(self) -> Tensor:
        """The latents of `space`: z (B, Dz), w (B, Dw) or w+ (B, L, Dw)."""
        found = {"z": self.z, "w": self.w, "w+": self.ws}[self.space]
        assert found is not None
        return found

    def rows(self, part: slice) -> Projected:
        """Return the projections of some of the pictures."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return Projected(**{name: v[part] if isinstance(v, Tensor) else v for name, v in values.items()})  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Projected]) -> Projected:
        """Return the projections of all pictures of parts of one space.

        Args:
            parts: at least one projection.
        """
        values: dict[str, Any] = {"space": parts[0].space}
        for field in fields(cls)[1:]:
            column = [getattr(part, field.name) for part in parts]
            values[field.name] = None if column[0] is None else torch.cat(column)
        return cls(**values)


def project(
    generator: Generator,
    images: Any,
    space: str | None = None,
    features: Networks = None,
    identity: Embedding | None = None,
    options: ProjectionOptions | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Projected:
    """Find latents of a generator whose pictures are near given ones.

    The result of a picture does not depend on the others, but for rounding.

    Args:
        generator: the frozen generator.
        images: pictures (B, C, H, W) of the generator's size, uint8 or in [-1, 1], as tensor or array; or the path of a
            photograph or of a folder of them, or a list of paths (see `read_photograph`).
        space: z, w or w+; None for that of the options.
        features: network whose features are compared beside the pixels: an embedding, a labeler (its penultimate
            features), a differentiable function from pictures (B, C, H, W) in [-1, 1] to (B, F), or several of them;
            None for none.
        identity: embedding that measures the result; None for none. Where it is also given as `features`, its distance
            is one that was optimised.
        options: options of the optimisation; None for the defaults.
        batch_size: pictures that are optimised together, at least 1; None for 16, fewer where pictures are larger than
            64x64.
        progress: whether to show a progress bar.

    Returns:
        The latents, their pictures, and how near these are.

    Raises:
        LaceError: for pictures of another shape, no pictures, a space that the generator does not have, and an
            optimisation of which no start stays finite.

    Example:
        >>> from lace_lightning import load_generator
        >>> generator = load_generator("cifar10")
        >>> images = generator(generator.prior(1, seed=3))
        >>> projected = project(generator, images, options=ProjectionOptions(steps=3, candidates=20))
        >>> projected.ws.shape, projected.images.shape
        (torch.Size([1, 8, 128]), torch.Size([1, 3, 32, 32]))
    """
    options = options or ProjectionOptions()
    options = options if space is None else replace(options, space=space)
    if batch_size is not None and batch_size < 1:
        raise LaceError(f"batch_size of a projection must be at least 1, received {batch_size}: set it to 16.")
    targets = _targets(images, generator)
    projector = Projector(generator, options, features, identity)
    size = batch_size or at_a_time(targets, 16)
    parts = targets.split(size)
    shown = steps(parts, "projection", "batch", progress)
    return Projected.joined([projector(part) for part in shown])


class Projector:
    """Projection of batches of pictures; the candidates of the prior are drawn once.

    Args:
        generator: the frozen generator.
        options: options of the optimisation.
        features: networks whose features are compared, see `project`.
        identity: embedding that measures the result; None for none.

    Raises:
        LaceError: for a space that the generator does not have.

    Example:
        >>> from lace_lightning.examples import tiny_generator
        >>> generator = tiny_generator()
        >>> projector = Projector(generator, ProjectionOptions(steps=5, candidates=8))
        >>> projector(torch.zeros(2, 3, 16, 16)).rmse.shape
        torch.Size([2])
    """

    def __init__(
        self,
        generator: Generator,
        options: ProjectionOptions,
        features: Networks = None,
        identity: Embedding | None = None,
    ) -> None:
        self.generator, self.options, self.identity = generator, options, identity
        self.space = options.space_of(generator)
        networks: list[Any] = list(features) if isinstance(features, (list, tuple)) else [features]
        self.networks = [_differentiable(one) for one in networks if one is not None] if options.features else []
        # Factors that give the features of a network a total variance of 1 over the prior.
        self._factors: list[Tensor] = []
        self.whitening = None if self.space == "z" else Whitening.of(generator)
        self._draw_candidates()

    @torch.no_grad()
    def _draw_candidates(self) -> None:
        """Draw samples of the prior: latents, small pictures, features and identity."""
        generator, side = self.generator, max(self.generator.image_shape[1:])
        count = self.options.candidates or max(64, min(1000, 1000 * COMPARED_SIDE**2 // side**2))
        points, small, people = [], [], []
        known: list[list[Tensor]] = [[] for _ in self.networks]
        for first in range(0, count, 100):
            z = generator.prior(
                min(100, count - first), RunSeeds.REFERENCE + self.options.seed, first, generator.device
            )
            images = generator(z)
            points.append(z if self.whitening is None else self.whitening.u(generator.mapping(z)))
            small.append(_small(images))
            for network, part in zip(self.networks, known, strict=True):
                part.append(network(images))
            if self.identity is not None:
                people.append(self.identity(images))
        self._points, self._pictures = torch.cat(points), torch.cat(small)
        features = [torch.cat(part) for part in known]
        self._factors = [_factor(part) for part in features]
        self._known = self._joined(features)
        self._people = torch.cat(people) if people else None

    def _joined(self, features: Sequence[Tensor]) -> Tensor:
        """Return the scaled features of all networks in one vector (B, F); F is 0 without networks."""
        parts = [factor * part for factor, part in zip(self._factors, features, strict=True)]
        return torch.cat(parts, 1) if parts else torch.empty(0, 0, device=self.generator.device)

    def features(self, images: Tensor) -> Tensor:
        """Return the scaled features (B, F) of pictures (B, C, H, W) in [-1, 1]; F is 0 without networks."""
        if not self.networks:
            return images.new_zeros(len(images), 0)
        return self._joined([network(images) for network in self.networks])

    def __call__(self, targets: Tensor, report: Callable[[int], None] | None = None) -> Projected:
        """Return the projections of pictures.

        Args:
            targets: pictures (B, C, H, W) of the generator's size in [-1, 1].
            report: function that is called with the number of steps that are done, after each; None for none.

        Raises:
            LaceError: when no start of a picture stays finite.
        """
        targets = targets.to(self.generator.device, torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            wanted = self.features(targets).detach()
            points = self._optimised(targets.clone(), wanted, report)
        with torch.no_grad():
            ws = self._styles(points)
            images = self.generator.synthesis(ws)
            result = Projected(
                self.space,
                points[:, 0] if self.space == "z" else None,
                None if self.space == "w+" else ws[:, 0] if self.space == "w" else self.generator.mapping(points[:, 0]),
                ws,
                images,
                (images - targets).square().mean((1, 2, 3)).sqrt(),
            )
            if self.networks:
                result.distance = (self.features(images) - wanted).norm(dim=1) / len(self.networks) ** 0.5
            if self.identity is not None and self._people is not None:
                result.identity = self.identity.distance(images, targets)
                result.closest = torch.cdist(self.identity(targets), self._people).amin(1)
        return result

    @torch.no_grad()
    def _starts(self, targets: Tensor, wanted: Tensor) -> Tensor:
        """Return starting points (B, S, M, D): M is the number of layers in w+, else 1."""
        small, count = _small(targets), self.options.starts
        # The mean of z has no gradient in generators that normalise z.
        use_mean = count > 1 and self.space != "z"
        distances = torch.stack([pixel_distance(self._pictures, picture[None]) for picture in small])
        if self.networks:
            distances = distances + self.options.features * torch.cdist(wanted, self._known).square()
        distances = distances.nan_to_num(nan=torch.inf)
        nearest = distances.topk(min(count - use_mean, distances.shape[1]), dim=1, largest=False).indices
        points = self._points[nearest]
        if use_mean:
            points = torch.cat([points, torch.zeros_like(points[:, :1])], dim=1)
        layers = self.generator.num_ws if self.space == "w+" else 1
        return points[:, :, None].expand(-1, -1, layers, -1)

    def _optimised(self, targets: Tensor, wanted: Tensor, report: Callable[[int], None] | None) -> Tensor:
        """Return the best points (B, M, D) of all starts and steps."""
        options, starts = self.options, self._starts(targets, wanted)
        pictures, count = starts.shape[:2]
        points = starts.flatten(0, 1).clone()
        rows = torch.arange(pictures, device=points.device).repeat_interleave(count)
        best, best_value = points.clone(), torch.full((len(points),), torch.inf, device=points.device)
        first, second = torch.zeros_like(points), torch.zeros_like(points)
        trial = max(1, round(TRIAL * options.steps)) if count > 1 else options.steps + 1
        compared = max(1, round(PIXELS_FIRST * options.steps))
        for step in range(options.steps + 1):
            if step == trial:
                kept = best_value.view(pictures, -1).argmin(1) + torch.arange(pictures, device=rows.device) * count
                points, best, best_value, first, second, rows = (
                    part[kept] for part in (points, best, best_value, first, second, rows)
                )
            if step == compared and self.networks:
                # What was best without features is not comparable.
                best_value = torch.full_like(best_value, torch.inf)
            value, gradient = self._value_and_gradient(
                step / options.steps, points, targets[rows], wanted[rows] if step >= compared else None
            )
            better = value < best_value
            best[better], best_value[better] = points[better], value[better]
            # A start that is no longer finite goes back to its best point, and stays there.
            lost = ~(value.isfinite() & gradient.flatten(1).isfinite().all(1))
            gradient[lost], points = 0.0, torch.where(lost[:, None, None], best, points)
            first = MOMENTS[0] * first + (1 - MOMENTS[0]) * gradient
            second = MOMENTS[1] * second + (1 - MOMENTS[1]) * gradient.square()
            mean, scale = first / (1 - MOMENTS[0] ** (step + 1)), second / (1 - MOMENTS[1] ** (step + 1))
            points = points - self._rate(step) * mean / (scale.sqrt() + 1e-8)
            if report is not None:
                report(step)
        winners = best_value.view(pictures, -1)
        lost_pictures = (~winners.isfinite().any(1)).nonzero()[:, 0].tolist()
        if lost_pictures:
            raise LaceError(
                f"A projection needs finite pictures, features and starts, and picture {lost_pictures[0]} of the batch "
                "has none: check the picture and the generator, or lower learning_rate."
            )
        chosen = winners.argmin(1) + torch.arange(pictures, device=rows.device) * winners.shape[1]
        return best[chosen]

    def _rate(self, step: int) -> float:
        share = step / self.options.steps
        warm = min(1.0, (step + 1) / max(1.0, WARM_UP * self.options.steps))
        rate = self.options.learning_rate or RATES[self.space]
        return rate * warm * 0.5 * (1 + math.cos(math.pi * share))

    def _value_and_gradient(
        self, progress: float, points: Tensor, targets: Tensor, wanted: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the values (N,) of what is minimised, and the gradient (N, M, D), which is also held by the prior.

        Args:
            progress: share of the steps that are done.
            points: points (N, M, D).
            targets: pictures (N, C, H, W).
            wanted: scaled features (N, F) of the pictures; None where pixels alone are compared.
        """
        options, u = self.options, points.detach().requires_grad_(True)
        images = self.generator.synthesis(self._styles(u))
        mean = u.mean(1)
        norm = mean.square().mean(1)
        value = pixel_distance(images, targets) + options.prior * norm
        if self.space == "w+":
            value = value + options.spread * (u - mean[:, None]).square().mean((1, 2))
        if self.networks and wanted is not None:
            value = value + options.features * (self.features(images) - wanted).square().sum(1)
        (gradient,) = torch.autograd.grad((value + HELD * (1 - progress) ** 2 * norm).sum(), u)
        return value.detach(), gradient

    def _styles(self, points: Tensor) -> Tensor:
        """Return the styles (N, L, Dw) of points (N, M, D)."""
        if self.whitening is None:
            return self.generator.broadcast(self.generator.mapping(points[:, 0]))
        return self.whitening.w(points).expand(-1, self.generator.num_ws, -1)


def pixel_distance(images: Tensor, targets: Tensor) -> Tensor:
    """Return P(x, y) (B,): mean squared differences of pixels over a pyramid of resolutions, and of edges.

    Args:
        images: pictures (B, C, H, W) in [-1, 1].
        targets: pictures (B, C, H, W), or one (1, C, H, W).

    Example:
        >>> pixel_distance(torch.zeros(2, 3, 8, 8), torch.ones(1, 3, 8, 8)).tolist()
        [1.0, 1.0]
    """
    difference = images - targets
    result = difference.square().mean((1, 2, 3))
    for axis in (2, 3):
        if difference.shape[axis] > 1:
            result = result + difference.diff(dim=axis).square().mean((1, 2, 3))
    while min(difference.shape[2:]) >= 2 * SMALLEST_SIDE:
        difference = F.avg_pool2d(difference, 2)
        result = result + difference.square().mean((1, 2, 3))
    return result


def _factor(features: Tensor) -> Tensor:
    """Return the factor that gives features (N, F) a total variance of 1; 0 where they are the same for all."""
    variance = features.var(0, correction=0).sum()
    return torch.where(variance > 1e-8 * features.square().sum(1).mean(), variance.clamp(min=1e-30).rsqrt(), 0.0)


def _small(images: Tensor) -> Tensor:
    """Return pictures shrunk by a whole number to at most `COMPARED_SIDE`."""
    factor = -(-max(images.shape[2:]) // COMPARED_SIDE)
    return images if factor <= 1 else F.avg_pool2d(images, factor)


def _differentiable(features: Labeler | Embedding | Features) -> Features:
    """Return features as a function of pictures (B, C, H, W) that gradients go through."""
    if isinstance(features, Embedding):
        return lambda images: features.with_gradient(with_channels(images, 3, "the embedding"))
    if isinstance(features, Labeler):
        network: Any = features.classifier.network
        if not hasattr(network, "features"):
            raise LaceError(
                f"The features of the labeler '{features.name}' have no gradient: give an embedding or another labeler."
            )
        return lambda images: network.features(with_channels(images, features.channels, features.name)).float()
    return features


def _targets(images: Any, generator: Generator) -> Tensor:
    """Return pictures (B, C, H, W) in [-1, 1] of the generator's shape."""
    if isinstance(images, (str, os.PathLike)):
        images = [images]
    if isinstance(images, (list, tuple)) and images and all(isinstance(path, (str, os.PathLike)) for path in images):
        files = photograph_files([Path(path) for path in images])
        return torch.stack([from_bytes(read_photograph(path, generator.image_shape).image) for path in files.values()])
    try:
        given = images if isinstance(images, Tensor) else torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LaceError(
            "Pictures must be a tensor or an array (B, C, H, W), or paths of photographs, and these are none "
            f"({error}): give one of them."
        ) from None
    given = from_bytes(given)
    received = f"{str(given.dtype).removeprefix('torch.')} of shape {tuple(given.shape)}"
    if not given.is_floating_point() or given.shape[1:] != generator.image_shape or not len(given):
        raise LaceError(
            f"Pictures must be uint8, or floating numbers in [-1, 1], of shape (B, "
            f"{', '.join(map(str, generator.image_shape))}), received {received}: cut and resize them."
        )
    low, high = float(given.min()), float(given.max())
    if not (low >= -1 and high <= 1):
        raise LaceError(
            f"Pictures must lie in [-1, 1], received values from {low:.3g} to {high:.3g}: give bytes, or scale them."
        )
    return given
