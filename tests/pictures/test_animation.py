"""Frames of a walk between edits, and the WebP and mp4 that they become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lace_lightning.errors import LaceError
from lace_lightning.pictures import animation, save_animation, save_animations, walk_frames


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
    with Image.open(save_animation(tmp_path / "a.webp", frames, 120)) as image:
        # Equal frames in a row may become one, of the sum of their times: a timestamp is the end of a frame.
        image.seek(image.n_frames - 1)
        image.load()
        assert image.size == frames[0].size
        assert image.info["timestamp"] + image.info["duration"] == 120 * len(frames)
        assert image.info["loop"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]


def test_a_webp_has_more_than_256_colours(tmp_path: Path) -> None:
    ramp = np.stack(np.broadcast_arrays(np.arange(64)[:, None] * 4, np.arange(64)[None] * 4, 128), 2).astype(np.uint8)
    with Image.open(save_animation(tmp_path / "a.webp", [Image.fromarray(ramp)] * 2)) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 256


def test_a_video_has_the_frames(tmp_path: Path) -> None:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = [Image.new("RGB", (33, 21), (value, 0, 0)) for value in (0, 100, 200)]
    paths = save_animations(tmp_path / "a", frames)
    assert [path.name for path in paths] == ["a.webp", "a.mp4"]
    shown = ffmpeg.read_frames(str(paths[1]))
    assert next(shown)["size"] == (34, 22)
    values = [np.frombuffer(frame, np.uint8).reshape(22, 34, 3)[10, 10, 0] for frame in shown]
    assert len(values) == 3
    assert np.abs(np.array(values, int) - [0, 100, 200]).max() < 12


def test_a_video_without_the_extra_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(animation, "find_spec", lambda name: None)
    frames = [Image.new("RGB", (8, 8))]
    with pytest.raises(LaceError, match=r'needs the extra video, .*: pip install "lace_lightning\[video\]"'):
        save_animation(tmp_path / "a.mp4", frames)
    assert [path.name for path in save_animations(tmp_path / "a", frames)] == ["a.webp"]


def test_what_is_no_animation_is_refused(tmp_path: Path) -> None:
    assert walk_frames([], [], shades) == []
    with pytest.raises(LaceError, match="at least 1 frame, received none"):
        save_animation(tmp_path / "a.webp", [])
    with pytest.raises(LaceError, match="at least 10 ms, received 0"):
        save_animation(tmp_path / "a.webp", [Image.new("RGB", (2, 2))], 0)
    with pytest.raises(LaceError, match=r"is a .webp or .mp4 file, received 'a.gif': name it a.webp"):
        save_animation(tmp_path / "a.gif", [Image.new("RGB", (2, 2))])
    with pytest.raises(LaceError, match="at least 1 frame a state"):
        walk_frames([torch.zeros(1, 1)], ["a"], shades, 0)
