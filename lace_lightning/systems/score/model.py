"""Score-based models of pictures (VP-SDE, VE-SDE), with a noisy classifier that says which."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...artifacts import load_tensors, to_builtin
from ...errors import LaceError
from ...numerics.precision import check_precision, compute_dtype
from ...pictures.convert import from_bytes
from ...samplers import Sample
from ...schema import Labels, Schema
from ...seeds import Noise, Streams, normal
from ...training.average import averaged_copy, early_decay, move_average
from ...training.learning_rates import by_steps, warmed_up
from ...training.losses import attribute_scores, labelled_batch
from ...training.steps import require_bounded, step_seed
from ..base import ConditionalModel
from .network import ScoreNetwork, load_published
from .noisy_classifier import NoisyClassifier, label_log_p
from .samplers import ProbabilityFlow, Score, ScoreSampler, build_score_sampler
from .sde import build_sde

PARTS = ("score", "classifier")


class ScoreModel(ConditionalModel):
    """A diffusion of pictures, its score network, and a classifier of noisy pictures that are trained on the same noisy
    batches.

    Score: denoising score matching with ‖s·std + z‖², mean (VP) or half the sum (VE) over a picture. Classifier: the
    likelihood of the known labels, discrete by softmax, continuous N(c; f, `sigma`² + v) with a variance v of its own
    that grows with the noise. Adam, linear warm-up, gradients of each network clipped to norm `clip`; `average` has the
    weights' moving average, which draws. `sampler` is {"kind": reverse_diffusion or probability_flow, ...}, see
    `score_samplers`. A sample depends on its own seed and code, but for reverse_diffusion with `coupled`. The guidance
    is γ = `guidance` times ∇ log p_t(c|x); 1 is the exact posterior's. `parts` are what is trained, in `precision`
    (auto, float32, bfloat16). `start` is a file of `save`, or a checkpoint of score_sde_pytorch for networks of its
    architecture.
    """

    space = "x"
    kind = "score"
    draws_with = ("sampler", "guidance")

    def __init__(
        self,
        schema: Mapping[str, Any] | Schema,
        sde: Mapping[str, Any] | None = None,
        resolution: int = 32,
        channels: int = 3,
        network: Mapping[str, Any] | None = None,
        classifier: Mapping[str, Any] | None = None,
        sampler: Mapping[str, Any] | None = None,
        guidance: float = 1.0,
        sigma: float = 0.1,
        learning_rate: float = 2e-4,
        classifier_rate: float = 1e-3,
        warmup: int = 5000,
        clip: float = 1.0,
        ema_decay: float = 0.9999,
        parts: Sequence[str] = PARTS,
        start: str | None = None,
        precision: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(Schema.of(schema))
        if not parts or not set(parts) <= set(PARTS):
            raise LaceError(
                f"The parts to train are some of {', '.join(PARTS)}, received {', '.join(parts) or 'none'}."
            )
        if check_precision(precision) == "float16":
            raise LaceError(
                "A score model is trained in auto, float32 or bfloat16, received float16: its range is too small."
            )
        if not (sigma > 0 and clip > 0 and guidance >= 0 and 0 <= ema_decay < 1 and warmup >= 0):
            raise LaceError(
                f"A score model needs sigma and clip above 0, guidance and warmup from 0 and ema_decay in [0, 1), "
                f"received "
                f"{sigma}, {clip}, {guidance}, {warmup} and {ema_decay}."
            )
        self.save_hyperparameters(
            {
                "schema": self.schema.to_config(),
                "sde": dict(sde or {"kind": "vp"}),
                "resolution": resolution,
                "channels": channels,
                "network": to_builtin(network or {}),
                "classifier": to_builtin(classifier or {}),
                "sampler": dict(sampler or {}),
                "guidance": guidance,
                "sigma": sigma,
                "learning_rate": learning_rate,
                "classifier_rate": classifier_rate,
                "warmup": warmup,
                "clip": clip,
                "ema_decay": ema_decay,
                "parts": list(parts),
                "start": start,
                "precision": precision,
                "seed": seed,
            }
        )
        self.sde = build_sde(**self.hparams["sde"])
        self.sampler: ScoreSampler = build_score_sampler(self.hparams["sampler"])
        self.sampler.check(self.sde)
        variances = sum(attribute.kind == "continuous" for attribute in self.schema)
        self.networks = nn.ModuleDict(
            {
                "score": ScoreNetwork(resolution, channels, embedding=self.sde.embedding, **self.hparams["network"]),
                "classifier": NoisyClassifier(
                    self.schema.num_logits + variances, channels, **self.hparams["classifier"]
                ),
            }
        )
        self.average = averaged_copy(self.networks)
        for name in set(PARTS) - set(parts):
            self.networks[name].requires_grad_(False)
        if start is not None:
            self._begin_from(start)
        # The step under way, and how many batches were gathered for it before this one.
        self._step, self._gathered = -1, 0

    def train(self, mode: bool = True) -> ScoreModel:
        super().train(mode)
        # The average draws, whatever is trained: it drops nothing.
        self.average.eval()
        return self

    # What is known of the noisy points x (B, *) at times t (B,), in the diffusion's own range.

    def _times(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a(t) and s(t) of the shape (B, 1, ...)."""
        shape = (-1, *[1] * (x.ndim - 1))
        return self.sde.mean(t).reshape(shape), self.sde.std(t).reshape(shape)

    def _autocast(self, networks: nn.ModuleDict) -> torch.autocast:
        """Return the context of a forward pass: what is drawn, which must not depend on its batch, is computed in
        float32.
        """
        lowered = compute_dtype(self.hparams["precision"], self.device) == torch.bfloat16 and networks is self.networks
        return torch.autocast(self.device.type, torch.bfloat16, enabled=lowered)

    def _output(self, networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        """Return the score network's output, score·s(t) but for its sign."""
        with self._autocast(networks):
            return networks["score"](x if self.sde.centered else 2 * x - 1, self.sde.level(t)).float()

    def _logits(self, networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        """Return the classifier's output: what it sees is the picture in [0, 1] plus noise, whatever the diffusion."""
        a, s = self._times(t, x)
        images, sigma = ((x / a + 1) / 2, s / (2 * a)) if self.sde.centered else (x, s)
        with self._autocast(networks):
            return networks["classifier"](images, sigma.flatten()).float()

    def score(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ∇ log p_t(x) by the average, for x (B, C, R, R) in the diffusion's range and times t (B,)."""
        return self.sde.sign * self._output(self.average, x, t) / self._times(t, x)[1]

    def log_likelihood(self, x: Tensor, t: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return log p_t(c|x) (B,) by the average, of the known (B, K) attributes `values` (B, K)."""
        return label_log_p(self.schema, self._logits(self.average, x, t), values, known, self.hparams["sigma"]).sum(1)

    # Training.

    def _noisy(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t, its normals z and times t."""
        x = from_bytes(batch[0]).float()
        x = x if self.sde.centered else (x + 1) / 2
        t = self.sde.begin + (1 - self.sde.begin) * torch.rand(len(x), device=x.device)
        z = torch.randn_like(x)
        a, s = self._times(t, x)
        return a * x + s * z, z, t

    def _losses(self, networks: nn.ModuleDict, batch: Sequence[Tensor], parts: Sequence[str]) -> dict[str, Tensor]:
        _, labels, known = labelled_batch(batch)
        x, z, t = self._noisy(batch)
        losses = {}
        if "score" in parts:
            squares = (self.sde.sign * self._output(networks, x, t) + z).square().flatten(1)
            losses["score"] = (squares.mean(1) if self.sde.centered else squares.sum(1) / 2).mean()
        if "classifier" in parts:
            logits = self._logits(networks, x, t)
            log_p = label_log_p(self.schema, logits, labels, known, self.hparams["sigma"])
            losses["classifier"] = -(log_p.sum(0) / known.sum(0).clamp(min=1)).sum()
            scores = attribute_scores(self.schema, logits[:, : self.schema.num_logits], labels, known)
            some = known.any(0)
            losses["accuracy"] = (torch.stack(list(scores.values())) * some).sum() / some.sum().clamp(min=1)
        return losses

    @contextmanager
    def _randomness(self, *numbers: int) -> Iterator[None]:
        """Draw inside, noise and dropout alike, what the seed and these numbers say, and leave the random numbers
        outside alone.
        """
        state = step_seed(self.hparams["seed"], *((1_000_003, number) for number in (*numbers, self.global_rank)))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(state)
            yield

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        # Not the batch's number: Lightning may count on where a resumed epoch begins.
        self._gathered = self._gathered + 1 if self._step == self.global_step else 0
        self._step = self.global_step
        with self._randomness(self._step, self._gathered):
            losses = self._losses(self.networks, batch, self.hparams["parts"])
        # The networks share no weights: the gradients of the sum are those of each.
        loss = sum((losses[part] for part in self.hparams["parts"]), batch[0].new_zeros([], dtype=torch.float32))
        require_bounded(self._step, "lower the learning rates, or go on from an earlier checkpoint", the_loss=loss)
        if batch_index % 20 == 0:
            self.log_dict({f"train_{name}": value.detach() for name, value in losses.items()}, prog_bar=True)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        for name in self.hparams["parts"]:
            torch.nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.hparams["clip"])

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        # Here, so that a checkpoint of this step has its average; the step is counted afterwards.
        self.follow(self.global_step + 1)

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Move the average towards the networks after so many updates: by 1 - min(`ema_decay`, (1 + n)/(10 + n))."""
        weight = 1 - early_decay(self.hparams["ema_decay"], updates)
        move_average(self.average, self.networks, weight, buffers=None)

    def _evaluate(self, batch: Sequence[Tensor], batch_index: int, stage: str) -> None:
        with self._randomness(-1, batch_index):
            losses = self._losses(self.average, batch, PARTS)
        self.log_dict(
            {f"{stage}_{name}": value for name, value in losses.items()}, prog_bar=True, batch_size=len(batch[0])
        )

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        self._evaluate(batch, batch_index, "val")

    def test_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        self._evaluate(batch, batch_index, "test")

    def configure_optimizers(self) -> Any:
        rates, warmup = (
            {"score": self.hparams["learning_rate"], "classifier": self.hparams["classifier_rate"]},
            self.hparams["warmup"],
        )
        optimizer = torch.optim.Adam(
            [{"params": list(self.networks[name].parameters()), "lr": rates[name]} for name in self.hparams["parts"]]
        )
        # As published the first step has a rate of 0.
        return by_steps(optimizer, lambda step: warmed_up(step - 1, warmup) if warmup else 1.0)

    # Drawing.

    def sample(self, codes: Labels, seeds: Tensor, starts: Tensor | None = None) -> Sample:
        """Return pictures `Sample.z` (B, C, R, R) in [-1, 1] with the attributes `codes` (B, K), free where they are
        not known.

        Diffusions begin at their prior, drawn from the seeds (B,) int64: `starts` are not looked at. `evaluations`
        counts those of the score network; guided samples take as many gradients of the classifier. Raises LaceError for
        codes that do not fit (see `checked`).
        """
        begin = time.perf_counter()
        codes = self.checked(codes, seeds)
        values, known = codes.values, codes.known
        with torch.inference_mode(False), torch.no_grad():
            # A copy: tensors of inference mode take part in no gradient.
            seeds = seeds.clone()
            score: Score = self.score
            is_guided = bool(known.any()) and self.hparams["guidance"] > 0
            if is_guided:
                score = guided(
                    score,
                    lambda x, t, rows: self.log_likelihood(x, t, values[rows], known[rows]),
                    self.hparams["guidance"],
                )
            shape = (self.hparams["channels"], self.hparams["resolution"], self.hparams["resolution"])
            x = self.sde.prior_std * normal(seeds, shape, Streams.PRIOR, self.device)
            x, evaluations = self.sampler(self.sde, score, x, Noise(seeds))
            if not bool(torch.isfinite(x).all()):
                raise LaceError(
                    f"The pictures must stay finite and did not with {self.hparams['sampler']}: take more steps, a "
                    f"smaller snr "
                    f"or a smaller guidance than {self.hparams['guidance']:g}."
                )
            x = (x if self.sde.centered else 2 * x - 1).clamp(-1, 1)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
        return Sample(
            x, evaluations, time.perf_counter() - begin, {"classifier_evaluations": evaluations if is_guided else 0.0}
        )

    def log_density(
        self, images: Tensor, seeds: Tensor | None = None, atol: float = 1e-5, rtol: float = 1e-5
    ) -> Tensor:
        """Return log p(x) (B,) of pictures in [-1, 1] (B, C, R, R), free of attributes, along the probability flow.

        The divergence is estimated with probes of ±1 from the seeds (B,) int64, or without seeds computed exactly,
        which takes as many gradients as a picture has numbers.
        """
        with torch.inference_mode(False), torch.no_grad():
            x = images.to(self.device).clone()
            x = x if self.sde.centered else (x + 1) / 2
            probe = None if seeds is None else normal(seeds, x.shape[1:], Streams.DENSITY_PROBE, x.device).sign()
            result, _ = ProbabilityFlow(atol=atol, rtol=rtol).log_density(self.sde, self.score, x, probe)
        return result if self.sde.centered else result - x[0].numel() * torch.log(torch.tensor(2.0))

    # Files.

    def saved_state(self) -> dict[str, Tensor]:
        return dict(self.average.state_dict())

    def load_saved_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.networks.load_state_dict(tensors)
        self.average.load_state_dict(self.networks.state_dict())

    def _begin_from(self, start: str) -> None:
        if not os.fspath(start).endswith(".safetensors"):
            load_published(self.networks["score"], start)  # type: ignore[arg-type]
            self.average["score"].load_state_dict(self.networks["score"].state_dict())
            return
        try:
            self.load_saved_state(load_tensors(start)[0])
        except RuntimeError as error:
            raise LaceError(
                f"The weights '{start}' must fit the networks of this configuration and do not "
                f"({' '.join(str(error).split())[:200]}): give the same networks."
            ) from error


def guided(score: Score, log_likelihood: Callable[[Tensor, Tensor, Tensor], Tensor], guidance: float = 1.0) -> Score:
    """Return the score ∇ log p_t(x) + γ·∇ log p_t(c|x); `log_likelihood(x, t, rows)` is log p_t(c|x) (A,)."""

    def total(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(log_likelihood(point, t, rows).sum(), point)
        return score(x, t, rows) + guidance * gradient

    return total
