"""Cache of tensors derived from frozen weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .recording import is_recording


class WeightCache:
    """Cache of tensors derived from frozen weights.

    A tensor is computed again when its weight was changed or moved. It is computed at every call while the weight is
    trained, and where a graph is recorded (torch.compile, torch.export, ONNX), because weights have no memory there.
    Copies and pickles of a cache are empty.

    Example:
        >>> cache, weight = WeightCache(), torch.ones(2)
        >>> doubled = cache("doubled", weight, lambda w: 2 * w)
        >>> cache("doubled", weight, lambda w: 2 * w) is doubled
        True
        >>> weight = weight.mul_(3)
        >>> cache("doubled", weight, lambda w: 2 * w)
        tensor([6., 6.])
    """

    def __init__(self) -> None:
        self._known: dict[object, tuple[Tensor, int, Tensor]] = {}

    def __call__(self, key: object, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `make(weight)`, from the cache where the weight is frozen and the same as before.

        Args:
            key: name of the derived tensor, one for each pair of weight and `make`.
            weight: the weight, of any shape.
            make: function of the weight that returns the derived tensor.
        """
        if is_recording() or weight.requires_grad or weight.is_inference():
            return make(weight)
        known = self._known.get(key)
        if known is None or known[0].data_ptr() != weight.data_ptr() or known[1] != weight._version:
            # Outside of inference mode, so that gradients with respect to latents may pass later. The alias keeps the
            # memory, so that no other weight can come to lie at the same address.
            with torch.inference_mode(False), torch.no_grad():
                known = weight.detach(), weight._version, make(weight)
            self._known[key] = known
        return known[2]

    def __reduce__(self) -> tuple[type[WeightCache], tuple[()]]:
        # Copies and pickles are empty: their weights have other addresses.
        return WeightCache, ()
