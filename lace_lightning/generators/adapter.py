"""Adapter that makes a generator of any nn.Module, such as the decoder of a VAE or a DCGAN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LaceError, in_one_line
from ..source import user_line
from ..unpickle.state import load_state, under
from .arguments import is_whole, require_number, require_whole
from .base import Generator
from .priors import LatentPrior, describe_prior, prior_of
from .probing import (
    DECODERS,
    TRIED,
    Shape,
    count_for_range,
    first_that_draws,
    likely_shapes,
    range_of_pictures,
    shape_of_pictures,
    trial_latents,
)

AUTO = "auto"


class ModuleGenerator(Generator):
    """A generator of any module: z (B, z_dim) -> w (B, w_dim) -> pictures (B, C, H, W) in [-1, 1].

    What is not given is found by trying the module on a few latents; `found` says it.

    Args:
        module: the network, of any floating type. It is used itself, not a copy.
        z_dim: number of numbers of a latent of the module, at least 1; None takes that of `latent_shape`, or finds it.
        image_shape: (C, H, W) of a picture, in channels and pixels; None finds it.
        w_dim: size of a latent w; None finds it.
        mapping: name of the method or submodule z -> w, which may have any shape; None uses z itself as w.
        synthesis: name of the method or submodule that turns w into pictures; None calls the module, or its method
            `decode` or part `decoder` where it has one and sizes are to be found.
        reshape: shape of one w as `synthesis` takes it; None for that of `mapping`, or (w_dim,).
        output_range: lowest and highest value of the pictures of the module, which are mapped linearly to [-1, 1], or
            "auto" to find it. Pictures that the module returns flat (B, C·H·W) are given their shape.
        clamp: whether to clamp the mapped pictures to [-1, 1].
        checkpoint: file of a state dict that is loaded into the module (safetensors, or of torch, of which no code is
            run); the table whose names and shapes fit is taken, averaged weights before others. None keeps the weights
            of the module.
        checkpoint_key: name of the state dict in the file; None chooses by content.
        checkpoint_prefix: beginning of the names of the module's tensors, such as "decoder"; None chooses by content.
        strict: whether the state dict must have exactly the names of the module.
        condition: second argument of a conditional module. A class number from 0, or numbers, is the same for all
            pictures. {"classes": K} adds K numbers to z, and the largest of them is the class of the sample, so that
            every class is as likely and a classifier of z steers it; with "one_hot": True the module gets K numbers
            0 and 1. The mapping gets the condition, or the synthesis where there is no mapping. None for none.
        freeze: whether to switch the module to evaluation and turn off gradients of its weights.
        max_batch: pictures computed at a time, at least 1, or "auto" for as many as fit into `memory`.
        memory: GiB above 0 for "auto"; None for half of the free memory.
        latent_shape: shape of one latent z as the module takes it, such as (4, 8, 8); None for (z_dim,).
        prior: distribution of the latents of the module, by a map of numbers ~ N(0, I): normal, uniform or truncated,
            or a table with `name` and the arguments of `NormalPrior`, `UniformPrior` or `TruncatedPrior`; None for
            N(0, I).
        output: which part of what the module returns is the picture: number of a tuple, or key of a table; None for
            one tensor.
        features: name of a submodule of the module whose output is the space `features` of classifiers; None for none.
        source: further plain values by which modules of equal weights are told apart; None for none.

    Raises:
        LaceError: for a name that is no callable of the module, an unreadable or unsuitable checkpoint, what cannot be
            found, and another argument out of range; in use, where the module does not take latents of these shapes or
            does not return pictures.

    Example:
        >>> decoder = nn.Sequential(nn.Linear(2, 48), nn.Sigmoid(), nn.Unflatten(1, (3, 4, 4)))
        >>> generator = ModuleGenerator(decoder, 2, (3, 4, 4), output_range=(0, 1))
        >>> generator(generator.prior(5)).shape
        torch.Size([5, 3, 4, 4])
        >>> ModuleGenerator(decoder, output_range="auto").found
        ['z_dim=2', 'image_shape=[3,4,4]', 'output_range=[0,1]']
    """

    def __init__(
        self,
        module: nn.Module,
        z_dim: int | None = None,
        image_shape: Sequence[int] | None = None,
        w_dim: int | None = None,
        mapping: str | None = None,
        synthesis: str | None = None,
        reshape: Sequence[int] | None = None,
        output_range: Sequence[float] | str = (-1.0, 1.0),
        clamp: bool = False,
        checkpoint: str | None = None,
        strict: bool = True,
        freeze: bool = True,
        max_batch: int | str = "auto",
        memory: float | None = None,
        checkpoint_key: str | None = None,
        condition: int | Sequence[float] | Mapping[str, Any] | None = None,
        latent_shape: Sequence[int] | None = None,
        prior: str | Mapping[str, Any] | None = None,
        output: int | str | None = None,
        checkpoint_prefix: str | None = None,
        source: Mapping[str, Any] | None = None,
        features: str | None = None,
    ) -> None:
        chosen = _condition(condition)
        if mapping is not None and isinstance(chosen, ClassChoice):
            raise LaceError(
                "Classes that are drawn reach a classifier of w through no gradient of a mapping, and mapping is "
                f"'{mapping}': set condition to a class number."
            )
        own_range = None if output_range == AUTO else _range(output_range)
        start = prior_of(prior)
        if checkpoint is not None:
            load_state(module, checkpoint, strict, key=under(checkpoint_key, checkpoint_prefix))
        if freeze:
            module.eval()
            # A program of TorchScript has no requires_grad_ of its own.
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        latent = _own_shape("latent_shape", latent_shape, z_dim)
        styles = _own_shape("reshape", reshape, w_dim if mapping is not None else (z_dim if w_dim is None else w_dim))
        if mapping is None:
            if w_dim not in (None, z_dim):
                raise LaceError(
                    f"A generator without a mapping has w_dim = z_dim, received {w_dim} and {z_dim}: set mapping, or "
                    "w_dim=null."
                )
            latent = latent or styles
        latent = latent or (() if z_dim is None else (require_whole("z_dim", z_dim, 1),))
        steps = _Steps(module, mapping, synthesis, chosen, output, start, styles)
        found: dict[str, Any] = {}
        if not latent or image_shape is None or (mapping is not None and w_dim is None and not styles):
            latent, image_shape = steps.find(latent, image_shape, found)
        if z_dim is None and not latent_shape:
            found = {"z_dim": math.prod(latent), **found}
        steps.latent = latent
        extra = chosen.classes if isinstance(chosen, ClassChoice) else 0
        z_total = math.prod(latent) + extra
        w_total = z_total if mapping is None else (w_dim or math.prod(steps.styles))
        super().__init__(z_total, w_total, image_shape, has_w=mapping is not None, max_batch=max_batch, memory=memory)
        self.module, self.clamp, self.condition = module, clamp, chosen
        self._steps, self.has_gradients = steps, getattr(module, "has_gradients", True) is not False
        self.mapping = nn.Identity() if mapping is None else _Mapping(steps)
        self._methods = {
            "mapping": mapping,
            "synthesis": steps.synthesis,
            "reshape": (steps.latent if mapping is None else steps.styles) if reshape or len(latent) > 1 else None,
            "prior": None if start is None else describe_prior(start),
            "output": output,
            "source": None if source is None else dict(source),
        }
        if own_range is None:
            own_range = self._found_range()
            found["output_range"] = own_range
        self.low, self.high = own_range
        self.with_features(features)
        self.found = [f"{name}={_written(value)}" for name, value in found.items()]
        if freeze:
            self.frozen()

    @property
    def feature_network(self) -> nn.Module:
        """The module."""
        return self.module

    def describe(self) -> dict[str, Any]:
        condition = self.condition.describe() if isinstance(self.condition, ClassChoice) else self.condition
        return {
            **super().describe(),
            "module": type(self.module).__name__,
            "range": [self.low, self.high],
            "clamp": self.clamp,
            **({} if condition is None else {"condition": condition}),
            **{name: value for name, value in self._methods.items() if value is not None},
        }

    def render(self, ws: Tensor) -> Tensor:
        images = self._raw(ws[:, 0])
        if (self.low, self.high) != (-1.0, 1.0):
            images = (images - self.low) * (2 / (self.high - self.low)) - 1
        result: Tensor = images.clamp(-1, 1) if self.clamp else images
        return result

    def _raw(self, w: Tensor) -> Tensor:
        """Return the pictures of w in the range of the module."""
        images = self._steps.draw(w)
        is_flat = images.ndim == 2 or (images.ndim == 3 and self.image_shape[0] == 1)
        if is_flat and math.prod(images.shape[1:]) == math.prod(self.image_shape):
            images = images.reshape(-1, *self.image_shape)
        return images

    @torch.no_grad()
    def _found_range(self) -> tuple[float, float]:
        count = count_for_range(math.prod(self.image_shape))
        # A generator of this module: the latents of its samples are not those of a run.
        z = trial_latents(count, self.z_dim, torch.empty(0, device=self.device))
        return range_of_pictures(torch.cat([self._raw(self.mapping(part)) for part in z.split(TRIED)]))


class ClassChoice:
    """The class of a sample: the number of the largest of K numbers ~ N(0, I), so that all classes are as likely.

    Args:
        classes: number K of classes, at least 2.
        one_hot: whether the class is given as K numbers 0 and 1, in place of its number.

    Example:
        >>> ClassChoice(3)(torch.tensor([[0.0, 2.0, 1.0]])).tolist()
        [1]
    """

    def __init__(self, classes: int, one_hot: bool = False) -> None:
        self.classes, self.one_hot = require_whole("condition.classes", classes, 2), bool(one_hot)

    def __call__(self, numbers: Tensor) -> Tensor:
        number = numbers.argmax(1)
        return nn.functional.one_hot(number, self.classes).to(numbers.dtype) if self.one_hot else number

    def describe(self) -> dict[str, Any]:
        """Return the choice as plain values."""
        return {"classes": self.classes, "one_hot": self.one_hot}


def _own_shape(name: str, shape: Any, size: int | None) -> Shape:
    """Return the shape of one latent, () for none. Raises LaceError where it has not `size` numbers."""
    given = tuple(shape or ()) if isinstance(shape, (Sequence, type(None))) and not isinstance(shape, str) else (None,)
    if given and not (all(is_whole(side) and side >= 1 for side in given) and size in (None, math.prod(given))):
        required = "whole numbers from 1" if size is None else f"{size} numbers, as z_dim or w_dim says"
        received = shape if isinstance(shape, str) else list(given)
        raise LaceError(
            f"The shape of one latent ({name}) must have {required}, received {received}: correct {name}, z_dim or "
            "w_dim."
        )
    return given


def _written(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(f"{one:g}" for one in value) + "]"
    return str(value)


def _range(output_range: Any) -> tuple[float, float]:
    values = list(output_range) if isinstance(output_range, Sequence) and not isinstance(output_range, str) else []
    numbers = [float(require_number("output_range", value) or 0.0) for value in values]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise LaceError(
            "The output_range of a generator must be its lowest and its highest value, such as [-1, 1] or [0, 1], or "
            f"auto, received {values or output_range}: correct it."
        )
    return numbers[0], numbers[1]


def _condition(condition: Any) -> int | list[float] | ClassChoice | None:
    if condition is None:
        return None
    if is_whole(condition) and condition >= 0:
        return int(condition)
    if isinstance(condition, Mapping) and "classes" in condition and set(condition) <= {"classes", "one_hot"}:
        return ClassChoice(**condition)
    if isinstance(condition, Sequence) and not isinstance(condition, str) and len(condition):
        return [float(require_number("condition", value) or 0.0) for value in condition]
    raise LaceError(
        "The condition of a generator must be a class number from 0, a list of numbers, or {classes: 10} for classes "
        f"that are drawn, received {condition!r}: correct it, or set it to null."
    )


class _Steps:
    """The steps of a module from z (B, Dz) to pictures: prior, shape of a latent, condition, mapping, synthesis."""

    def __init__(
        self,
        module: nn.Module,
        mapping: str | None,
        synthesis: str | None,
        condition: int | list[float] | ClassChoice | None,
        output: int | str | None,
        start: LatentPrior | None,
        styles: Shape,
    ) -> None:
        self.module, self.synthesis, self.condition, self.output = module, synthesis, condition, output
        self.start, self.styles = start, styles
        self.latent: Shape = ()
        self._map = None if mapping is None else _Method(module, mapping, condition, "mapping")
        self._set(synthesis)

    def _set(self, synthesis: str | None) -> None:
        self.synthesis = synthesis
        condition = self.condition if self._map is None else None
        self._draw = _Method(self.module, synthesis, condition, "synthesis", self.output)

    def _latents(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return latents as the module takes them, and the class of each where it is drawn."""
        chosen = None
        if isinstance(self.condition, ClassChoice):
            z, numbers = z.split([z.shape[1] - self.condition.classes, self.condition.classes], dim=1)
            chosen = self.condition(numbers)
        return (z if self.start is None else self.start(z)).reshape(-1, *self.latent), chosen

    def map(self, z: Tensor) -> Tensor:
        """Return w of z, flat; the shape that synthesis takes is noted at the first call."""
        assert self._map is not None
        w: Tensor = self._map(*self._latents(z))
        if not self.styles:
            self.styles = tuple(w.shape[1:])
        return w.flatten(1)

    def draw(self, w: Tensor) -> Tensor:
        """Return the pictures of w (B, Dw) as the module returns them."""
        if self._map is None:
            images: Tensor = self._draw(*self._latents(w))
        else:
            images = self._draw(w.reshape(-1, *self.styles) if self.styles else w)
        return images

    @torch.no_grad()
    def find(self, latent: Shape, image_shape: Sequence[int] | None, found: dict[str, Any]) -> tuple[Shape, Any]:
        """Return the shapes of a latent and of a picture, given or found, and note what was found."""
        training = self.module.training
        self.module.eval()
        names = [self.synthesis]
        if self.synthesis is None and self._map is None and not latent:
            names = [*(name for name in DECODERS if callable(getattr(self.module, name, None))), None]
        like = next(self.module.parameters(), torch.empty(0))
        extra = self.condition.classes if isinstance(self.condition, ClassChoice) else 0
        given, fixed = self.synthesis, self.styles

        def trial(shape: Shape, name: str | None) -> Tensor:
            self.latent, self.styles = shape, fixed
            self._set(name)
            z = trial_latents(TRIED, math.prod(shape) + extra, like)
            return self.draw(z if self._map is None else self.map(z))

        if latent:
            images = trial(latent, given)
        else:
            latent, name, images = first_that_draws(trial, likely_shapes(self.module), names, self._draw.title)
            if name != given:
                found["synthesis"] = name
            if len(latent) > 1:
                found["latent_shape"] = latent
        self.module.train(training)
        if image_shape is None:
            image_shape = shape_of_pictures(images)
            found["image_shape"] = image_shape
        return latent, image_shape


class _Mapping(nn.Module):
    """The map z (B, Dz) -> w (B, Dw) of a module, without weights of its own."""

    def __init__(self, steps: _Steps) -> None:
        super().__init__()
        self._steps = (steps,)

    def forward(self, z: Tensor) -> Tensor:
        return self._steps[0].map(z)


class _Method(nn.Module):
    """A module, or a method or submodule of it, as a module without weights of its own.

    Latents are given in the type of the weights, and results are returned in that of the latents, but not in half
    precision. Whatever the module does not take becomes one sentence that names the setting.
    """

    def __init__(
        self, owner: nn.Module, name: str | None, condition: Any, part: str, output: int | str | None = None
    ) -> None:
        super().__init__()
        if name is not None and not callable(getattr(owner, name, None)):
            raise LaceError(
                f"The module {type(owner).__name__} must have a callable '{name}' and has none: correct the name."
            )
        self._owner, self.name, self.condition, self.part, self.output = (owner,), name, condition, part, output

    @property
    def title(self) -> str:
        owner = self._owner[0]
        title = getattr(owner, "title", None)
        return (title if isinstance(title, str) else type(owner).__name__) + (f".{self.name}" if self.name else "")

    def _arguments(self, x: Tensor, chosen: Tensor | None) -> list[Tensor]:
        if self.condition is None:
            return [x]
        if chosen is not None:
            return [x, chosen.to(x.dtype) if chosen.is_floating_point() else chosen]
        if isinstance(self.condition, int):
            return [x, torch.full((len(x),), self.condition, device=x.device)]
        return [x, torch.tensor(self.condition, dtype=x.dtype, device=x.device).expand(len(x), -1)]

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        owner = self._owner[0]
        weight = next((tensor for tensor in owner.parameters() if tensor.is_floating_point()), x)
        called = owner if self.name is None else getattr(owner, self.name)
        try:
            result = called(*self._arguments(x.to(weight.dtype), chosen))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if isinstance(error, LaceError):
                raise
            raise LaceError(
                f"The {self.part} of a generator must take latents of the shape {tuple(x.shape)}"
                f"{'' if self.condition is None else ' and a condition'}, and {self.title} does not "
                f"({in_one_line(error, 140)}{user_line(error)}): set {self._advice(error)}."
            ) from error
        result = self._picked(result)
        return result.to(torch.promote_types(x.dtype, torch.float32)) if result.is_floating_point() else result

    def _picked(self, result: Any) -> Tensor:
        """Return the tensor that `output` names of what was returned."""
        picked = result
        if self.output is not None and not isinstance(result, Tensor):
            try:
                by_name = isinstance(self.output, str) and not isinstance(result, Mapping)
                picked = getattr(result, str(self.output)) if by_name else result[self.output]
            except (LookupError, TypeError, AttributeError):
                picked = None
        if isinstance(picked, Tensor):
            return picked
        kind = "w" if self.part == "mapping" else "pictures"
        if isinstance(result, Mapping):
            held = f"a table of {', '.join(map(str, result))}"
        elif isinstance(result, (tuple, list)):
            held = f"a {type(result).__name__} of {len(result)}"
        else:
            held = type(result).__name__
        fix = f"set {self.part} to a method that returns them alone"
        if self.part == "synthesis":
            fix = f"set output to the number or the name of the {kind} in it, or {fix[4:]}"
        raise LaceError(
            f"The {self.part} of a generator must return {kind} as one tensor, and {self.title} returns {held}"
            f"{'' if self.output is None else f', which has no tensor {self.output!r}'}: {fix}."
        )

    def _advice(self, error: Exception) -> str:
        if isinstance(error, TypeError) and self.condition is None:
            return "condition where it is conditional, or synthesis (or mapping) to a method that takes latents alone"
        if self.condition is not None:
            return "condition, z_dim, or reshape (the shape of one latent)"
        return "z_dim to the size of its latents, or reshape to the shape of one latent"
