"""Pictures: conversion between bytes and [-1, 1], labelled grids, animations."""

from .animation import save_animation, walk_frames
from .convert import at_a_time, downscale, float_batches, from_bytes, to_bytes
from .grids import labelled_grid, to_picture

__all__ = [
    "at_a_time",
    "downscale",
    "float_batches",
    "from_bytes",
    "labelled_grid",
    "save_animation",
    "to_bytes",
    "to_picture",
    "walk_frames",
]
