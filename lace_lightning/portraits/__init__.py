"""Rendered portraits: pictures whose attributes are known exactly."""

from .face import IDENTITY, PORTRAITS_SCHEMA, render
from .population import sample_attributes, sample_identity
from .sheet import attribute_rows

__all__ = ["IDENTITY", "PORTRAITS_SCHEMA", "attribute_rows", "render", "sample_attributes", "sample_identity"]
