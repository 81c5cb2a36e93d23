"""What pictures of faces are described by: the twelve attributes of the paper's experiments on photographs."""

from __future__ import annotations

from ..schema import Attribute, Schema

_NO_YES = ("no", "yes")

# Hair colours have numbers alone: the published pairs do not say which is which.
FACES_SCHEMA = Schema("faces", (
    Attribute("smile", class_names=_NO_YES), Attribute("glasses", class_names=_NO_YES), Attribute("gender", class_names=("male", "female")),
    Attribute("beard", class_names=_NO_YES), Attribute("haircolor", num_classes=5),
    *(Attribute(name, "continuous") for name in ("yaw", "age", "pitch", "bald", "width", "light0", "light3"))))
