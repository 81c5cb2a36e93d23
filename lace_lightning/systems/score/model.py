"""Score-based models of pictures (VP-SDE, VE-SDE), guided by a classifier of noisy pictures."""

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
    """A diffusion of pictures: a score network and a classifier of noisy pictures, trained on the same noisy batches.

    The score network learns by denoising score matching: ‖s·std + z‖², its mean (VP-SDE) or half its sum (VE-SDE) over
    a picture. The classifier learns the likelihood of the known labels: a softmax for discrete attributes, and
    N(c; f, `sigma`² + v) for continuous ones, with a variance v of its own that grows with the noise. Adam has a linear
    warm-up. Samples are drawn with a moving average of the weights. A sample depends on its own seed and code alone,
    except for the sampler reverse_diffusion with `coupled`.

    Args:
        schema: the attributes that the model knows.
        sde: `kind`, vp (default) or ve, and the arguments of `VariancePreserving` or `VarianceExploding`.
        resolution: side R of a picture in pixels.
        channels: channels C of a picture.
        network: further arguments of `ScoreNetwork`.
        classifier: further arguments of `NoisyClassifier`.
        sampler: settings of `build_score_sampler`: `kind` and its arguments.
        guidance: γ, the factor of ∇ log p_t(c|x), 0 or more; 1 is the exact posterior's.
        sigma: error of continuous attributes without noise, above 0.
        learning_rate: learning rate of the score network after the warm-up, above 0.
        classifier_rate: learning rate of the classifier after the warm-up, above 0.
        warmup: steps of linear warm-up, 0 or more.
        clip: largest norm of the gradients of each network, above 0.
        ema_decay: decay of the moving average at each step, in [0, 1).
        parts: the networks that are trained: score, classifier, or both.
        start: file of initial weights: one that `save` wrote, of both networks or of one, or a checkpoint of
            score_sde_pytorch for networks of its architecture; None for random weights.
        precision: number format of the training: auto, float32 or bfloat16.
        seed: the seed of the noise of the training.

    Raises:
        LaceError: for settings out of range, a sampler that does not fit the diffusion, and weights that do not fit the
            networks.

    References:
        Eq. 20 to 23 of LACE (arXiv 2110.10873); Song et al., ICLR 2021.

    Example:
        >>> import torch
        >>> from lace_lightning.schema import Attribute, Labels, Schema
        >>> schema = Schema("s", (Attribute("hat"),))
        >>> model = ScoreModel(
        ...     schema,
        ...     resolution=8,
        ...     network={"nf": 8, "multipliers": [1, 2]},
        ...     classifier={"widen": 1},
        ...     sampler={"kind": "probability_flow", "method": "heun", "num_steps": 2},
        ... )
        >>> model.sample(Labels.constant(schema, 2, hat=1.0), torch.arange(2)).z.shape
        torch.Size([2, 3, 8, 8])
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
                f"The parts to train must be one or both of {', '.join(PARTS)}, received {', '.join(parts) or 'none'}."
            )
        if check_precision(precision) == "float16":
            raise LaceError(
                "A score model is trained in auto, float32 or bfloat16, received float16: its range is too small; set "
                "precision=auto."
            )
        if not (sigma > 0 and clip > 0 and guidance >= 0 and 0 <= ema_decay < 1 and warmup >= 0):
            raise LaceError(
                f"A score model needs sigma and clip above 0, guidance and warmup from 0 and ema_decay in [0, 1), "
                f"received sigma={sigma}, clip={clip}, guidance={guidance}, warmup={warmup} and "
                f"ema_decay={ema_decay}: correct them."
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
        # The current step, and how many batches were accumulated for it before this one.
        self._step, self._gathered = -1, 0

    def train(self, mode: bool = True) -> ScoreModel:
        """Set the training mode of the trained networks; the moving average stays in evaluation mode."""
        super().train(mode)
        # Samples are drawn with the average, which has no dropout, also during the training.
        self.average.eval()
        return self

    # Densities of noisy points x (B, *) at times t (B,), in the diffusion's own range.

    def _times(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return a(t) and s(t) of the shape (B, 1, ...)."""
        shape = (-1, *[1] * (x.ndim - 1))
        return self.sde.mean(t).reshape(shape), self.sde.std(t).reshape(shape)

    def _autocast(self, networks: nn.ModuleDict) -> torch.autocast:
        """Return the context of a forward pass: bfloat16 for networks that are trained, where `precision` allows it.

        The moving average is computed in float32, so that a sample does not depend on its batch.
        """
        lowered = compute_dtype(self.hparams["precision"], self.device) == torch.bfloat16 and networks is self.networks
        return torch.autocast(self.device.type, torch.bfloat16, enabled=lowered)

    def _output(self, networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        """Return the output of the score network, which is score·s(t) up to its sign."""
        with self._autocast(networks):
            result: Tensor = networks["score"](x if self.sde.centered else 2 * x - 1, self.sde.level(t)).float()
            return result

    def _logits(self, networks: nn.ModuleDict, x: Tensor, t: Tensor) -> Tensor:
        """Return the output of the classifier; its input is the picture in [0, 1] plus noise for every diffusion."""
        a, s = self._times(t, x)
        images, sigma = ((x / a + 1) / 2, s / (2 * a)) if self.sde.centered else (x, s)
        with self._autocast(networks):
            result: Tensor = networks["classifier"](images, sigma.flatten()).float()
            return result

    def score(self, x: Tensor, t: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return ∇ log p_t(x) by the moving average, for x (B, C, R, R) in the diffusion's range and times t (B,)."""
        return self.sde.sign * self._output(self.average, x, t) / self._times(t, x)[1]

    def log_likelihood(self, x: Tensor, t: Tensor, values: Tensor, known: Tensor) -> Tensor:
        """Return log p_t(c|x) (B,) of the known attributes of `values` (B, K), by the average's classifier."""
        return label_log_p(self.schema, self._logits(self.average, x, t), values, known, self.hparams["sigma"]).sum(1)

    # Training.

    def _noisy(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return noisy pictures x_t, their standard normals z and their times t."""
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
        """Seed torch's random numbers from the seed and these numbers inside this context, and restore them after it.

        Noise and dropout of a step are the same in a training that was resumed.
        """
        state = step_seed(self.hparams["seed"], *((1_000_003, number) for number in (*numbers, self.global_rank)))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(state)
            yield

    def training_step(self, batch: Sequence[Tensor], batch_index: int) -> Tensor:
        """Return the sum of the losses of the trained networks."""
        # The batch's number is not used: Lightning may continue its count where a resumed epoch begins.
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
        """Clip the gradients of each trained network to the norm `clip`."""
        for name in self.hparams["parts"]:
            torch.nn.utils.clip_grad_norm_(self.networks[name].parameters(), self.hparams["clip"])

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """Make a step of the optimizer, then one of the moving average."""
        super().optimizer_step(*arguments, **options)
        # A checkpoint of this step then has its average; Lightning counts the step afterwards.
        self.follow(self.global_step + 1)

    @torch.no_grad()
    def follow(self, updates: int) -> None:
        """Move the average towards the networks by the share 1 - min(`ema_decay`, (1 + n)/(10 + n)).

        Args:
            updates: the number n of updates so far, at least 1.
        """
        weight = 1 - early_decay(self.hparams["ema_decay"], updates)
        move_average(self.average, self.networks, weight, buffers=None)

    def _evaluate(self, batch: Sequence[Tensor], batch_index: int, stage: str) -> None:
        with self._randomness(-1, batch_index):
            losses = self._losses(self.average, batch, PARTS)
        self.log_dict(
            {f"{stage}_{name}": value for name, value in losses.items()}, prog_bar=True, batch_size=len(batch[0])
        )

    def validation_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        """Log the losses of the moving average on a validation batch."""
        self._evaluate(batch, batch_index, "val")

    def test_step(self, batch: Sequence[Tensor], batch_index: int) -> None:
        """Log the losses of the moving average on a test batch."""
        self._evaluate(batch, batch_index, "test")

    def configure_optimizers(self) -> Any:
        """Return Adam with a learning rate for each trained network and a linear warm-up."""
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
        """Return pictures in [-1, 1] with the attributes that the codes ask for.

        Args:
            codes: labels (B, K); attributes that are not known are free.
            seeds: one seed a sample (B,) int64, from which the diffusion's prior is drawn.
            starts: not used; a diffusion begins at its prior.

        Returns:
            Pictures `z` (B, C, R, R) with evaluations of the score network per sample. Diagnostics:
            `classifier_evaluations`, gradients of the classifier per sample.

        Raises:
            LaceError: for codes that do not fit, see `checked`, and for pictures that are not finite.
        """
        begin = time.perf_counter()
        codes = self.checked(codes, seeds)
        values, known = codes.values, codes.known
        with torch.inference_mode(False), torch.no_grad():
            # A copy, because tensors of inference mode cannot take part in a gradient.
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
                    f"smaller snr or a smaller guidance than {self.hparams['guidance']:g}."
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
        """Return log p(x) (B,) of pictures without conditions, along the probability flow.

        Args:
            images: pictures (B, C, R, R) in [-1, 1].
            seeds: seeds (B,) int64 of probes of ±1, with which the divergence is estimated; None for the exact
                divergence, which takes as many gradients as a picture has numbers.
            atol: absolute tolerance of the flow, above 0.
            rtol: relative tolerance of the flow, above 0.

        Raises:
            LaceError: when the flow does not arrive.
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
        tensors, _ = load_tensors(start)
        held = {key.split(".")[0] for key in tensors}
        try:
            # A file of one network leaves the other's first weights.
            rest = {key: value for key, value in self.networks.state_dict().items() if key.split(".")[0] not in held}
            self.load_saved_state({**tensors, **rest})
        except RuntimeError as error:
            raise LaceError(
                f"The weights '{start}' must fit the networks of this configuration and do not "
                f"({' '.join(str(error).split())[:200]}): give the same networks."
            ) from error


def guided(score: Score, log_likelihood: Callable[[Tensor, Tensor, Tensor], Tensor], guidance: float = 1.0) -> Score:
    """Return the guided score ∇ log p_t(x) + γ·∇ log p_t(c|x).

    Args:
        score: ∇ log p_t(x) (A, *), a function of points x (A, *), times (A,) and their numbers in the batch (A,).
        log_likelihood: log p_t(c|x) (A,), a function of the same arguments.
        guidance: γ, 0 or more; 1 is the exact posterior's.

    References:
        Song et al., ICLR 2021, section 5 (Eq. 14).

    Example:
        >>> import torch
        >>> score = guided(lambda x, t, rows: -x, lambda x, t, rows: 3 * x.sum(1), guidance=2.0)
        >>> score(torch.ones(1, 2), torch.ones(1), torch.arange(1)).tolist()
        [[5.0, 5.0]]
    """

    def total(x: Tensor, t: Tensor, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            point = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(log_likelihood(point, t, rows).sum(), point)
        return score(x, t, rows) + guidance * gradient

    return total
