"""Editing by conditional models at test time, measured as editing by latent classifiers is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..generators import Generator
from ..labelers import Labeler
from ..query import Query
from ..systems.base import ConditionalModel
from ..systems.editing import StepEditor
from .editing import StepwiseEditing


class ModelEditing(StepwiseEditing):
    """Edit by a conditional model, by its `edit_options`, and measure (`StepwiseEditing`).

    What there is before an edit the model is told by the `labeler`, so that the judge stays independent; without one by
    the judge. Raises LaceError for edits that are no conjunction of `==`, and for options that the model cannot take.
    """

    def __init__(
        self,
        generator: Generator,
        judge: Labeler,
        model: ConditionalModel,
        edits: Sequence[Query],
        options: Any,
        *arguments: Any,
        labeler: Labeler | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(generator, judge, model, edits, options, *arguments, **settings)
        self.labeler = labeler or judge
        for query in self.edits:
            model.check_query(query)
        # Once before the model is trained, so that whatever is wrong with the options shows now.
        self.editor(model, torch.device("cpu"))

    def editor(self, source: ConditionalModel, device: torch.device) -> StepEditor:
        return source.editor(self.generator, self.labeler.to(device), self.options)

    def protocol(self, source: ConditionalModel, device: torch.device) -> dict[str, Any]:
        who = "judge" if self.labeler is self.judge else "labeler"
        return {
            **super().protocol(source, device),
            "attributes_before": f"{who}: {self.labeler.name} {self.labeler.digest}",
        }
