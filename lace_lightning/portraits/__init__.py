"""Rendered portraits: pictures whose attributes are known because they were asked for."""

from .face import IDENTITY, PORTRAITS_SCHEMA, render
from .population import sample_attributes, sample_identity
from .sheet import attribute_rows

__all__ = ["IDENTITY", "PORTRAITS_SCHEMA", "attribute_rows", "render", "sample_attributes", "sample_identity"]
