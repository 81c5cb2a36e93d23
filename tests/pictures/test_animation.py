"""Frames of a walk between edits, and the GIF that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.errors import LaceError
from lace_lightning.pictures import save_animation, walk_frames


def shades(ws: torch.Tensor) -> torch.Tensor:
    """Pictures of one shade: the latent's."""
    return (ws * 100).round().byte()[:, :, None, None].expand(-1, 3, 8, 8)


def seen(frame: Image.Image) -> int:
    """The shade of the picture in the lower left of a frame."""
    array = np.asarray(frame)[:, :, 0]
    return int(array[array.shape[0] - 40, 20])


def test_a_walk_goes_in_straight_lines_and_stays_at_every_state() -> None:
    states = [torch.zeros(1, 1), torch.ones(1, 1), torch.full((1, 1), 0.5)]
    frames = walk_frames(states, ["before", "smile == 1", "a longer title, which is wider than the others"], shades, 4)
    assert [seen(frame) for frame in frames] == [0] * 4 + [25, 50, 75] + [100] * 4 + [88, 75, 62] + [50] * 4
    assert len({frame.size for frame in frames}) == 1


def test_frames_are_written_with_their_time(tmp_path: Path) -> None:
    frames = walk_frames([torch.zeros(2, 1), torch.ones(2, 1)], ["before", "after"], shades, 2)
    with Image.open(save_animation(tmp_path / "a.gif", frames, 120)) as image:
        # Equal frames in a row become one, of the sum of their times.
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            durations.append(image.info["duration"])
        assert image.size == frames[0].size
        assert sum(durations) == 120 * len(frames)
        assert image.info["loop"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_what_is_no_animation_is_refused(tmp_path: Path) -> None:
    assert walk_frames([], [], shades) == []
    with pytest.raises(LaceError, match="at least 1 frame, received none"):
        save_animation(tmp_path / "a.gif", [])
    with pytest.raises(LaceError, match="at least 10 ms, received 0"):
        save_animation(tmp_path / "a.gif", [Image.new("RGB", (2, 2))], 0)
    with pytest.raises(LaceError, match="at least 1 frame a state"):
        walk_frames([torch.zeros(1, 1)], ["a"], shades, 0)
