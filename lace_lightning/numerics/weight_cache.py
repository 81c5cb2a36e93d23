"""Cache of tensors derived from frozen weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class WeightCache:
    """What follows from a frozen weight, computed once; again when the weight was changed or moved, always while it is
    trained.
    """

    def __init__(self) -> None:
        self._known: dict[object, tuple[Tensor, int, Tensor]] = {}

    def __call__(self, key: object, weight: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return make(weight); one `key` for every use of the weight."""
        if weight.requires_grad or weight.is_inference():
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
        # A copy and a file begin with nothing: their weights lie elsewhere.
        return WeightCache, ()
