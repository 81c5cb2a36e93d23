"""Editing by a flow: closed forms of flows that shift, what stays as it is, who says what there is before an edit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lace_lightning.callbacks import Evaluation, SequentialEditing
from lace_lightning.errors import LaceError
from lace_lightning.generators import ModuleGenerator, load_generator
from lace_lightning.labelers import Labeler
from lace_lightning.query import parse
from lace_lightning.systems.styleflow.editing import PUBLISHED_OVERSHOOT, FlowOptions
from lace_lightning.systems.styleflow.model import StyleFlow

from ..systems.test_styleflow import stirred
from .test_sampling import SCHEMA, Reader, Shade

ONE, TWO = FlowOptions(reencode=False), FlowOptions()


class Unsure(Reader):
    """Sees the opposite of what there is, and would abstain from all of it."""

    digest = "unsure"

    def __init__(self) -> None:
        super().__init__()
        self.name, self.confidence = "unsure", 1.0

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return super().features_and_logits(-images)


def shifting(side: float, age: float) -> StyleFlow:
    """z = w - (side·c_side + age·c_age, 0, 0), but for the 1.00005 of its normalisation."""
    flow = StyleFlow(SCHEMA, w_dim=3, hidden=[], sampling={"method": "rk4", "steps": 2}).eval()
    layer = flow.flow.chain[1].velocity.layers[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.shift.weight[0] = torch.tensor([0.0, -side, -age])
    return flow


def measured(
    flow: StyleFlow, options: FlowOptions, *edits: str, labeler: Labeler | None = None, **settings
) -> Evaluation:
    queries, generator, judge = (
        [parse(edit, SCHEMA) for edit in edits],
        ModuleGenerator(Shade(), 3, (3, 8, 8)),
        Reader(),
    )
    callback = SequentialEditing(
        judge,
        queries,
        options,
        **{"num_samples": 40, "batch_size": 20, "seed": 3, "progress": False, **settings},
    )
    callback.check(flow.bind(generator, labeler or judge))
    return callback.evaluate(flow)


@pytest.mark.parametrize("options", [ONE, TWO, FlowOptions(overshoot={"age": 1.5})])
def test_a_flow_that_shifts(options: FlowOptions) -> None:
    """w moves by 0.7·(c_side' - c_side) + 2·d·(c_age' - c_age), from what was there before any edit, however many there
    are.
    """
    generator, flow, z = ModuleGenerator(Shade(), 3, (3, 8, 8)), shifting(0.7, 2.0), torch.randn(12, 3)
    editor, factor = flow.editor(generator, Reader(), options), (options.overshoot or {}).get("age", 1.0)
    grey = ((z[:, 0].tanh() + 1) * 127.5).round() / 127.5 - 1
    side, age = (grey > 0).float(), grey / 2 + 0.5
    state = editor.begin(z)
    assert state.edits == ()
    for number, (edit, shift, in_force) in enumerate(
        (
            ("age == 0.8", 2 * factor * (0.8 - age), ["age == 0.8"]),
            ("side == light", 2 * factor * (0.8 - age) + 0.7 * (1 - side), ["age == 0.8", "side == light"]),
            ("age == 0.3", 2 * factor * (0.3 - age) + 0.7 * (1 - side), ["side == light", "age == 0.3"]),
            ("age == 0.4 and side == dark", 2 * factor * (0.4 - age) - 0.7 * side, ["age == 0.4 and side == dark"]),
        )
    ):
        state = editor.apply(state, edit)
        torch.testing.assert_close(state.ws[:, 0, 0], z[:, 0] + shift, atol=1e-3, rtol=0)
        torch.testing.assert_close(state.ws[:, 0, 1:], z[:, 1:])
        assert [str(query) for query in state.edits] == in_force
        # Two steps of four evaluations each way.
        assert state.evaluations == (16 if options.reencode or not number else 8)
        assert state.seconds > 0


def test_figures_are_those_of_the_shift_in_whatever_batches() -> None:
    """The labeler sees light as dark, and has it made lighter, and dark as light, and has it left: ACC is the share of
    light before.
    """
    flow = shifting(4.0, 0.0)
    result = measured(flow, ONE, "side == light", "side == dark", labeler=Unsure())
    assert result.metrics["edit1/acc"] == pytest.approx(float((flow.generator.prior(40, 3)[:, 0] > 0).float().mean()))
    assert result.metrics["evaluations"] == (16 + 8) / 2
    assert result.protocol["attributes_before"] == "labeler: unsure unsure"
    assert result.protocol["editing"] == {"layers": None, "overshoot": None, "reencode": False}
    assert len(result.frames) == 8 + 2 * 15
    small = measured(flow, ONE, "side == light", "side == dark", labeler=Unsure(), batch_size=7).metrics
    for name, value in small.items():
        if "seconds" not in name:
            assert value == pytest.approx(result.metrics[name], rel=1e-6), name
    assert measured(flow, ONE, "side == dark").protocol["attributes_before"] == "judge: reader reader"


def test_portraits_that_have_it_stay_and_layers_that_are_not_chosen_stay() -> None:
    torch.manual_seed(0)
    generator, labeler = (
        load_generator("portraits_generator", truncation=0.5, precision="float32"),
        Labeler("portraits_labeler"),
    )
    flow = StyleFlow(labeler.schema, w_dim=generator.w_dim, hidden=[32, 32], sampling={"steps": 16}).eval()
    stirred(flow.flow)
    z = generator.prior(16, 5)
    editor = flow.editor(generator, labeler, ONE)
    state = editor.begin(z)
    without = labeler.labels(generator.pictures(state.ws).float() / 127.5 - 1).column("glasses") == 0
    assert 0 < int(without.sum()) < 16
    changes = (
        (generator.pictures(editor.apply(state, "glasses == no").ws).int() - generator.pictures(state.ws).int())
        .abs()
        .amax((1, 2, 3))
    )
    assert int(changes[without].max()) <= 1
    assert int(changes[~without].min()) > 5
    chosen = flow.editor(generator, labeler, FlowOptions({"glasses": [0, 1, 3], "age": [1]}))
    first = chosen.apply(chosen.begin(z), "glasses == yes")
    last = chosen.apply(first, "age == 0.75")
    assert torch.equal(first.ws[:, [2, 4, 5, 6, 7]], state.ws[:, [2, 4, 5, 6, 7]])
    assert torch.equal(last.ws[:, [0, 2, 3, 4, 5, 6, 7]], first.ws[:, [0, 2, 3, 4, 5, 6, 7]])
    assert bool((last.ws[:, 1] != first.ws[:, 1]).any(1).all())
    # A sample depends on its own latent alone.
    part = chosen.apply(chosen.apply(chosen.begin(z[5:7]), "glasses == yes"), "age == 0.75")
    torch.testing.assert_close(part.ws, last.ws[5:7], atol=1e-4, rtol=0)


def test_what_a_flow_cannot_edit_is_said() -> None:
    flow = shifting(1.0, 1.0)
    for edit in ("age > 0.5", "not side == light", "side == light or age == 0.5"):
        with pytest.raises(LaceError, match=r"StyleFlow takes a conjunction of ==, received"):
            measured(flow, ONE, edit)
    with pytest.raises(LaceError, match="'hat' was asked for"):
        measured(flow, FlowOptions(overshoot={"hat": 2.0}), "side == light")
    for overshoot in ("much", {"age": "much"}, {"age": float("nan")}, [1.5]):
        with pytest.raises(LaceError, match="overshoot must be factors"):
            FlowOptions(overshoot=overshoot)
    assert FlowOptions(overshoot="published").overshoot == PUBLISHED_OVERSHOOT
