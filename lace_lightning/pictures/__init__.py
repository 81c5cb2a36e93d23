"""Pictures: conversion between bytes and [-1, 1], labelled grids, animations."""

from .convert import at_a_time, downscale, float_batches, from_bytes, to_bytes

__all__ = ["at_a_time", "downscale", "float_batches", "from_bytes", "to_bytes"]
