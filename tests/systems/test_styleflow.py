"""StyleFlow: closed forms of linear fields, densities that integrate to 1, inverses, edits, resuming, published
weights.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lace_lightning.data.batches import TensorBatches
from lace_lightning.errors import LaceError
from lace_lightning.schema import Attribute, Labels, Schema
from lace_lightning.systems.label_encoding import LabelEncoding
from lace_lightning.systems.styleflow.editing import FlowStyleEditor
from lace_lightning.systems.styleflow.model import PUBLISHED_SCHEMA, StyleFlow
from lace_lightning.systems.styleflow.network import ContinuousFlow, FlowChain, MovingNorm, Solver

SCHEMA = Schema("s", (Attribute("a"), Attribute("v", "continuous"), Attribute("b", "discrete", 3)))
FINE = Solver("rk4", steps=64)
TIGHT = Solver("dopri5", 1e-10, 1e-10)
TRAINER = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def labels(count: int, schema: Schema = SCHEMA) -> Labels:
    columns = [
        torch.randint(a.num_classes, (count,)).float() if a.kind == "discrete" else torch.rand(count) for a in schema
    ]
    return Labels(schema, torch.stack(columns, 1))


def module(dim: int = 6, **options) -> StyleFlow:
    """A flow that bends space: moments and scales are not those of the beginning, conditions matter."""
    result = StyleFlow(**{"schema": SCHEMA, "w_dim": dim, "hidden": [16, 16], **options})
    stirred(result.flow)
    result.conditions.remember(labels(50).values, torch.ones(50, 3, dtype=torch.bool))
    return result.eval()


def stirred(flow: FlowChain) -> None:
    with torch.no_grad():
        for part in flow.chain:
            if isinstance(part, MovingNorm):
                for tensor in (part.weight, part.bias, part.running_mean):
                    tensor.normal_(0, 0.3)
                part.running_var.uniform_(0.5, 2)
            else:
                part.sqrt_end_time.fill_(1.2)
                for parameter in part.velocity.parameters():
                    parameter.mul_(1.5)


def linear_flow(matrix: Tensor, end_time: float) -> ContinuousFlow:
    """dx/dt = Ax: one layer whose gate is open."""
    flow = ContinuousFlow(len(matrix), 2, []).double()
    layer = flow.velocity.layers[0]
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        layer.linear.weight.copy_(matrix)
        layer.gate.bias.fill_(50.0)
        flow.sqrt_end_time.fill_(end_time**0.5)
    return flow


@pytest.mark.parametrize("solver", [TIGHT, Solver("rk4", steps=400)])
@pytest.mark.parametrize("end_time", [1.0, 0.6])
def test_a_linear_field_is_a_matrix_exponential(solver: Solver, end_time: float) -> None:
    matrix, w, code = torch.randn(4, 4).double(), torch.randn(7, 4).double(), torch.randn(7, 2).double()
    flow = linear_flow(matrix, end_time)
    there = flow(w, code, solver, torch.eye(4).double()[:, None])
    expected = w @ torch.matrix_exp(matrix * end_time).T
    torch.testing.assert_close(there.x, expected, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(
        there.log_det, torch.full((7,), end_time * float(matrix.trace())).double(), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(flow(there.x, code, solver, reverse=True).x, w, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("adjoint", [True, False])
def test_gradients_of_a_linear_field(adjoint: bool) -> None:
    """Of z = exp(aT)·w, log|det| = aT: ∂/∂T and ∂/∂a, by the adjoint and without."""
    flow = linear_flow(torch.tensor([[0.7]]).double(), 0.8)
    w = torch.tensor([[1.5]]).double().requires_grad_()
    there = flow(
        w, torch.zeros(1, 2).double(), Solver("dopri5", 1e-10, 1e-10, adjoint=adjoint), torch.ones(1, 1, 1).double()
    )
    z = math.exp(0.56) * 1.5
    (there.x.sum() + 3 * there.log_det.sum()).backward()
    assert float(flow.velocity.layers[0].linear.weight.grad) == pytest.approx(0.8 * z + 3 * 0.8, rel=1e-7)
    assert float(flow.sqrt_end_time.grad) == pytest.approx(2 * 0.8**0.5 * (0.7 * z + 3 * 0.7), rel=1e-7)
    assert float(w.grad) == pytest.approx(math.exp(0.56), rel=1e-7)


@pytest.mark.parametrize("solver", [{"method": "dopri5", "atol": 1e-9, "rtol": 1e-9}, {"method": "rk4", "steps": 40}])
def test_the_adjoint_has_the_gradients_of_the_solver(solver: dict) -> None:
    flow, w, code = module().flow.double(), torch.randn(5, 6).double(), torch.randn(5, 5).double()
    probes = torch.randn(1, 5, 6).double()
    gradients = []
    for adjoint in (True, False):
        flow.zero_grad()
        flow.log_prob(w, code, Solver(**solver, adjoint=adjoint), probes).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in flow.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_trace_is_that_of_the_jacobian_and_one_probe_is_right_on_average() -> None:
    velocity = module().flow.chain[1].velocity.double()
    x, code, t = torch.randn(3, 6).double(), torch.randn(3, 5).double(), torch.tensor(0.3).double()
    jacobian = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda y, i=i: velocity(t, code[i : i + 1], y[None])[0][0], x[i])
            for i in range(3)
        ]
    )
    units = torch.eye(6).double()[:, None]
    tangents = velocity(t, code, x, units)[1]
    torch.testing.assert_close(tangents, jacobian.permute(2, 0, 1))
    probes = torch.randn(20000, 3, 6).double()
    estimates = (probes * velocity(t, code, x, probes)[1]).sum(-1)
    exact = jacobian.diagonal(dim1=1, dim2=2).sum(-1)
    error = estimates.std(0) / 20000**0.5
    assert bool(((estimates.mean(0) - exact).abs() < 4 * error).all())
    assert float(error.detach().max()) < 0.05


def test_log_det_is_that_of_the_jacobian_with_the_right_sign() -> None:
    flow, code = module(3).flow.double(), torch.randn(1, 5).double()
    w = torch.randn(3).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow.encode(v[None], code, Solver("rk4", steps=64, adjoint=False)).x[0], w
    )
    encoded = flow.encode(w[None], code, FINE, flow.units(w[None]))
    assert encoded.log_det.item() == pytest.approx(float(jacobian.det().abs().log()), abs=1e-6)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(encoded.x).sum() + encoded.log_det[0]
    assert flow.log_prob(w[None], code, FINE).item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_density_integrates_to_one() -> None:
    flow = module(2).flow.double()
    axis = torch.linspace(-12, 12, 121, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        for code in torch.eye(5).double()[:2]:
            mass = (
                flow.log_prob(grid, code.expand(len(grid), -1), Solver("rk4", steps=6)).exp().sum()
                * float(axis[1] - axis[0]) ** 2
            )
            assert float(mass) == pytest.approx(1.0, abs=1e-3)


def test_normalisation_by_what_came_before() -> None:
    """The first pass is the identity but for ε; log|det| and the inverse are exact; moments move a tenth of the way,
    unbiased.
    """
    norm, x = MovingNorm(3).double(), torch.randn(4, 5, 3).double() * 2 + 1
    torch.testing.assert_close(norm(x).x, x / 1.0001**0.5)
    norm.learn(x)
    rows = x.reshape(20, 3)
    torch.testing.assert_close(norm.running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * rows.var(0))
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    there = norm(x)
    assert there.log_det.item() == pytest.approx((norm.weight - 0.5 * (norm.running_var + 1e-4).log()).sum().item())
    torch.testing.assert_close(norm(there.x, reverse=True).x, x)
    with pytest.raises(LaceError, match="at least 2 latents"):
        norm.learn(x[:1, :1])


@pytest.mark.parametrize("blocks", [1, 2])
def test_decode_is_the_inverse_of_encode(blocks: int) -> None:
    # In float64, where the error is the solver's alone: a bound of a thousand tolerances leaves room for its growth
    # along the flow, whatever the random weights of a processor are.
    flow = module(blocks=blocks).double().flow
    w, code = torch.randn(8, 6, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    for solver, error in ((Solver("rk4", steps=128), 1e-5), (Solver(atol=1e-8, rtol=1e-8), 1e-5)):
        encoded = flow.encode(w, code, solver)
        assert encoded.log_det is None
        assert float((encoded.x - w).detach().abs().mean()) > 0.1
        torch.testing.assert_close(flow.decode(encoded.x, code, solver).x, w, atol=error, rtol=0)


def test_the_published_size() -> None:
    flow = StyleFlow(PUBLISHED_SCHEMA)
    assert flow.conditions.size == 17
    assert sum(parameter.numel() for parameter in flow.parameters()) == 1_691_649


def test_conditions_by_hand() -> None:
    conditions = LabelEncoding(SCHEMA, {"v": (-40.0, 60.0)}, 3)
    torch.testing.assert_close(
        conditions.numbers(torch.tensor([[1.0, 0.5, 2.0], [0.0, 0.0, 0.0]])),
        torch.tensor([[1.0, 10.0, 0, 0, 1], [0.0, -40.0, 1, 0, 0]]),
    )
    with pytest.raises(LaceError, match="classes of 'b' are 0 to 2"):
        conditions.numbers(torch.tensor([[1.0, 0.5, 3.0]]))
    for ranges, words in (
        ({"a": (0, 2)}, "continuous attribute"),
        ({"w": (0, 2)}, "'w' was asked for"),
        ({"v": (1, 1)}, "different"),
    ):
        with pytest.raises(LaceError, match=words):
            LabelEncoding(SCHEMA, ranges, 3)


def test_what_is_not_known_comes_from_rows_that_were_seen() -> None:
    conditions = LabelEncoding(SCHEMA, {}, 4)
    seen = torch.tensor([[0, 0.1, 0], [1, 0.2, 1], [0, 0.3, 2], [1, 0.4, 0], [0, 0.5, 2]])
    conditions.remember(seen[:3], torch.ones(3, 3, dtype=torch.bool))
    conditions.remember(seen[3:], torch.tensor([[True, False, True], [True, True, False]]))
    assert conditions.count == 4
    known = torch.zeros(64, 3, dtype=torch.bool)
    known[:, 0] = True
    filled = conditions.filled_by_seed(Labels(SCHEMA, torch.ones(64, 3), known), torch.arange(64), 1)
    assert bool((filled[:, 0] == 1).all())
    # The first row is gone. What a row knows stays together; the next row says what it does not know.
    rows = {(round(v, 4), b) for v, b in filled[:, 1:].tolist()}
    assert rows == {(0.5, 1.0), (0.2, 1.0), (0.3, 2.0), (0.5, 0.0)}
    again = conditions.filled_by_seed(Labels(SCHEMA, torch.ones(2, 3), known[:2]), torch.tensor([7, 3]), 1)
    assert torch.equal(again, filled[[7, 3]])
    with pytest.raises(LaceError, match="none is kept that knows v, b"):
        LabelEncoding(SCHEMA, {}, 4).filled_by_seed(Labels(SCHEMA, torch.ones(64, 3), known), torch.arange(64), 1)


def test_a_sample_depends_on_its_seed_and_code_alone() -> None:
    flow, codes, seeds = module(), labels(9), torch.arange(9)
    codes.known[:, 1] = False
    everything = flow.sample(codes, seeds)
    assert everything.z.shape == (9, 6)
    assert everything.evaluations == 64
    for rows in ([4], [8, 0, 3]):
        part = flow.sample(codes[torch.tensor(rows)], seeds[rows])
        torch.testing.assert_close(part.z, everything.z[rows], atol=2e-6, rtol=0)
    assert float((flow.sample(codes, seeds + 100).z - everything.z).abs().min(1).values.max()) > 1e-3
    # The adaptive solver couples a batch, within its tolerance.
    adaptive = module(sampling={"method": "dopri5", "atol": 1e-6, "rtol": 1e-6})
    adaptive.load_state_dict(flow.state_dict())
    torch.testing.assert_close(adaptive.sample(codes, seeds).z, everything.z, atol=1e-4, rtol=0)


def test_sampling_is_the_inverse_of_the_likelihoods_map() -> None:
    flow, codes = module(), labels(5)
    w = flow.sample(codes, torch.arange(5)).z
    exact = flow.log_prob(w, codes, torch.arange(5), exact=True)
    estimates = flow.log_prob(w.repeat(200, 1), Labels.cat([codes] * 200), torch.arange(1000)).reshape(200, 5)
    assert bool(((estimates.mean(0) - exact).abs() < 5 * estimates.std(0) / 200**0.5).all())


def test_edits() -> None:
    flow, ws, before = module(sampling={"steps": 32}), torch.randn(4, 3, 6), labels(4)
    same = flow.edit(ws, before, before)
    torch.testing.assert_close(same.ws, ws, atol=1e-5, rtol=0)
    assert same.evaluations == 2 * 128
    after = Labels.constant(SCHEMA, 4, v=1.0)
    edited = flow.edit(ws, before, after, {"v": [1]}, {"v": 1.5})
    assert torch.equal(edited.ws[:, [0, 2]], ws[:, [0, 2]])
    assert bool((edited.ws[:, 1] != ws[:, 1]).any(1).all())
    everywhere = flow.edit(ws, before, after, None, {"v": 1.5})
    torch.testing.assert_close(everywhere.ws[:, 1], edited.ws[:, 1])
    assert float((everywhere.ws - ws).abs().flatten(1).max(1).values.min()) > 1e-3
    v = before.values[:, 1]
    torch.testing.assert_close(edited.codes[:, 1], v + 1.5 * (1 - v))
    assert torch.equal(edited.codes[:, [0, 2, 3, 4]], edited.original[:, [0, 2, 3, 4]])
    # Rows may have edits of their own, and do not see each other.
    after.known[0] = False
    torch.testing.assert_close(flow.edit(ws, before, after, {"v": [1]}, {"v": 1.5}).ws[1:], edited.ws[1:])
    assert torch.equal(flow.edit(ws, before, after).ws[0], ws[0])
    alone = flow.edit(ws[2:3], before[2:3], after[2:3], {"v": [1]}, {"v": 1.5})
    torch.testing.assert_close(alone.ws, edited.ws[2:3], atol=2e-6, rtol=0)


def test_edits_one_after_the_other() -> None:
    """Where all layers change, encoding again changes nothing; where some do, it does; an edit can be taken back."""
    flow, before, ws = module(sampling={"steps": 32}), labels(4), torch.randn(4, 3, 6)
    first, second = Labels.constant(SCHEMA, 4, v=1.0), Labels.constant(SCHEMA, 4, a=1.0, b=2.0)
    some, results = {"v": [1], "a": [0, 1], "b": [0, 1]}, {}
    for reencode in (True, False):
        for layers in (None, some):
            editor = FlowStyleEditor(flow, layers, reencode=reencode)
            state = editor.apply(editor.apply(editor.begin(ws, before), first), second)
            results[reencode, layers is None] = state.ws
            back = editor.apply(state, before)
            torch.testing.assert_close(back.codes, back.original)
            if layers is None:
                torch.testing.assert_close(back.ws, ws, atol=1e-4, rtol=0)
    once = flow.edit(ws, before, Labels.constant(SCHEMA, 4, v=1.0, a=1.0, b=2.0))
    for reencode in (True, False):
        torch.testing.assert_close(results[reencode, True], once.ws, atol=1e-4, rtol=0)
        assert torch.equal(results[reencode, False][:, 2], ws[:, 2])
    assert float((results[True, False] - results[False, False]).abs().max()) > 1e-3


def test_what_an_edit_cannot_do_is_said() -> None:
    flow, ws, before = module(), torch.randn(2, 3, 6), labels(2)
    one = Labels.constant(SCHEMA, 2, a=1)
    for arguments, words in (
        ((ws, one, before), "v, b is not known"),
        ((ws[:, 0], before, before), r"\(2, L, 6\)"),
        ((ws, before, one, {"v": [3]}), "must lie in 0 to 2"),
        ((ws, before, one, {"q": [1]}), "'q' was asked"),
        ((ws, before, one, None, {"q": 2.0}), "'q' was asked"),
        ((ws, labels(2, PUBLISHED_SCHEMA), one), "was asked for"),
    ):
        with pytest.raises(LaceError, match=words):
            flow.edit(*arguments)


class Pairs(pl.LightningDataModule):
    """w = A c + 0.3 ε of codes with one continuous and one discrete attribute, some of them not known."""

    schema = Schema("p", (Attribute("a"), Attribute("v", "continuous")))

    def __init__(self, count: int = 256, unknown: float = 0.0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(5)
        codes = torch.stack(
            [torch.randint(2, (count,), generator=random).float(), torch.rand(count, generator=random)], 1
        )
        w = codes @ torch.tensor([[2.0, -1.0], [0.0, 3.0]]) + 0.3 * torch.randn(count, 2, generator=random)
        known = torch.rand(count, 2, generator=random) >= unknown
        self.tensors = (w, torch.where(known, codes, torch.nan), known)

    def train_dataloader(self) -> TensorBatches:
        return TensorBatches(self.tensors, 64, seed=3)

    def val_dataloader(self) -> TensorBatches:
        return TensorBatches(self.tensors, 4096)


def fitted(epochs: int, path: Path | None = None, start: Path | None = None, **options) -> tuple[StyleFlow, pl.Trainer]:
    torch.manual_seed(2)
    flow = StyleFlow(Pairs.schema, 2, [8], **options)
    trainer = pl.Trainer(max_epochs=epochs, enable_checkpointing=False, limit_val_batches=0, **TRAINER)
    trainer.fit(flow, Pairs(unknown=0.2), ckpt_path=start, weights_only=True)
    if path is not None:
        trainer.save_checkpoint(path)
    return flow, trainer


def test_a_resumed_run_ends_where_it_would_have(tmp_path: Path) -> None:
    fast = {"solver": {"method": "rk4", "steps": 3}, "num_rows": 100}
    whole, _ = fitted(4, **fast)
    fitted(2, tmp_path / "half.ckpt", **fast)
    resumed, _ = fitted(4, start=tmp_path / "half.ckpt", **fast)
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.state_dict().items())


def test_training_approaches_the_entropy_and_samples_have_the_conditional_moments(tmp_path: Path) -> None:
    torch.manual_seed(2)
    data = Pairs(1024)
    flow = StyleFlow(data.schema, 2, [16], learning_rate=2e-2, solver={"method": "rk4", "steps": 2, "adjoint": False})
    trainer = pl.Trainer(
        max_epochs=7, check_val_every_n_epoch=7, enable_checkpointing=False, num_sanity_val_steps=0, **TRAINER
    )
    trainer.fit(flow, data)
    flow.eval()
    entropy = 2 * (0.5 * math.log(2 * math.pi * math.e) + math.log(0.3))
    nll = -float(
        flow.log_prob(data.tensors[0], Labels(data.schema, data.tensors[1]), torch.arange(1024), exact=True).mean()
    )
    assert entropy - 0.1 < nll < entropy + 0.25
    assert float(trainer.callback_metrics["val/nll"]) == pytest.approx(nll, abs=0.1)
    w = flow.sample(Labels.constant(data.schema, 2000, a=1.0, v=0.5), torch.arange(2000)).z
    torch.testing.assert_close(w.mean(0), torch.tensor([2.0, 0.5]), atol=0.12, rtol=0)
    torch.testing.assert_close(w.std(0), torch.tensor([0.3, 0.3]), atol=0.1, rtol=0)
    # The other attribute is drawn as in training.
    free = flow.sample(Labels.constant(data.schema, 2000, a=0.0), torch.arange(2000)).z
    assert float(free[:, 1].std()) == pytest.approx((9 / 12 + 0.09) ** 0.5, abs=0.12)
    flow.save(tmp_path / "flow.safetensors")
    again = StyleFlow.load(tmp_path / "flow.safetensors")
    torch.testing.assert_close(
        again.sample(Labels.constant(data.schema, 5, a=0.0), torch.arange(5)).z, free[:5], atol=1e-5, rtol=0
    )


def test_divergence_ends_the_training_with_its_step() -> None:
    flow = module()
    flow.log = lambda *_, **__: None  # type: ignore[method-assign]
    batch = (torch.full((4, 6), torch.inf), labels(4).values)
    with pytest.raises(LaceError, match=r"step 0|resolution of time"):
        flow.training_step(batch, 0)


def published_state(dim: int, conditions: int, hidden: int) -> OrderedDict[str, Tensor]:
    """The names, in their order, of the published weights, tiny."""
    state: OrderedDict[str, Tensor] = OrderedDict()

    def norm(number: int) -> None:
        for name, value in (
            ("weight", torch.randn(dim)),
            ("bias", torch.randn(dim)),
            ("step", torch.tensor([6000.0])),
            ("running_mean", torch.randn(dim)),
            ("running_var", torch.rand(dim) + 0.5),
        ):
            state[f"chain.{number}.{name}"] = value

    norm(0)
    state["chain.1.sqrt_end_time"] = torch.tensor(0.9)
    state["chain.1.odefunc._num_evals"] = torch.tensor(41.0)
    widths = [dim, *[hidden] * 5, dim]
    for number in range(6):
        prefix = f"chain.1.odefunc.diffeq.layers.{number}"
        state[f"{prefix}._layer.weight"] = torch.randn(widths[number + 1], widths[number]) / 4
        state[f"{prefix}._layer.bias"] = torch.randn(widths[number + 1]) / 4
        state[f"{prefix}._hyper_bias.weight"] = torch.randn(widths[number + 1], 1 + conditions) / 4
        state[f"{prefix}._hyper_gate.weight"] = torch.randn(widths[number + 1], 1 + conditions) / 4
        state[f"{prefix}._hyper_gate.bias"] = torch.randn(widths[number + 1]) / 4
    norm(2)
    return state


def test_published_weights_are_read_and_nothing_is_run(tmp_path: Path) -> None:
    """What torch.save wrote in 2020: no archive, tensors of a GPU."""
    state, file = published_state(4, 17, 5), tmp_path / "modellarge10k.pt"
    torch.save(state, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    flow = StyleFlow.published(file)
    assert b"cuda:0" in file.read_bytes()
    assert (flow.hparams["hidden"], flow.flow.dim) == ([5] * 5, 4)
    before, w = labels(3, PUBLISHED_SCHEMA), torch.randn(3, 4)
    code = flow.conditions.numbers(before.values)
    assert code.shape == (3, 17)
    assert float(code[0, 11]) == pytest.approx(-42.7 + 92.9 * float(before.values[0, 11]), abs=1e-4)
    # Their map, step by step: normalise, Euler with many steps, normalise.
    x = (w - state["chain.0.running_mean"]) / (state["chain.0.running_var"] + 1e-4).sqrt()
    x = x * state["chain.0.weight"].exp() + state["chain.0.bias"]
    steps = 2000
    for step in range(steps):
        tc, y = torch.cat([torch.full((3, 1), 0.81 * (step + 0.5) / steps), code], 1), x
        for number in range(6):
            part = {
                name: state[f"chain.1.odefunc.diffeq.layers.{number}.{name}"]
                for name in (
                    "_layer.weight",
                    "_layer.bias",
                    "_hyper_bias.weight",
                    "_hyper_gate.weight",
                    "_hyper_gate.bias",
                )
            }
            gate = (tc @ part["_hyper_gate.weight"].T + part["_hyper_gate.bias"]).sigmoid()
            y = (y @ part["_layer.weight"].T + part["_layer.bias"]) * gate + tc @ part["_hyper_bias.weight"].T
            y = y.tanh() if number < 5 else y
        x = x + 0.81 / steps * y
    x = (x - state["chain.2.running_mean"]) / (state["chain.2.running_var"] + 1e-4).sqrt()
    x = x * state["chain.2.weight"].exp() + state["chain.2.bias"]
    torch.testing.assert_close(flow.flow.encode(w, code, flow.sampling).x, x, atol=2e-3, rtol=1e-3)
    with pytest.raises(LaceError, match="have 17 conditions, and the schema 's' has 5"):
        StyleFlow.published(file, SCHEMA, {})
    torch.save({"weight": torch.ones(2)}, file)
    with pytest.raises(LaceError, match="must hold the state dict of a StyleFlow"):
        StyleFlow.published(file)
