"""First convolutions on patches."""

from __future__ import annotations

import pytest
import torch

from lace_lightning.errors import LaceError
from lace_lightning.numerics.convolutions import patch_convolution


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_a_shift_by_a_patch_shifts_the_output_by_one_place(patch: int) -> None:
    convolution, x = patch_convolution(2, 3, patch), torch.zeros(1, 2, 32, 32)
    x[:, :, 12:16, 8:20] = torch.rand(1, 2, 4, 12)
    moved = x.roll((patch, -patch), (2, 3))
    assert convolution(x).shape == (1, 3, 32 // patch, 32 // patch)
    assert torch.allclose(convolution(moved), convolution(x).roll((1, -1), (2, 3)), atol=1e-6)


@pytest.mark.parametrize("patch", [0, -2, 3])
def test_other_strides_are_refused(patch: int) -> None:
    with pytest.raises(LaceError, match=f"even number of pixels, received {patch}"):
        patch_convolution(1, 1, patch)
