"""Training of style-based generators: non-saturating logistic loss, lazy R1, moving average, adaptive augmentation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from ..artifacts import to_builtin
from ..errors import LaceError
from ..generators.stylegan2 import read_network, save_network
from ..generators.stylegan2_networks import StyleGAN2Network
from ..pictures.convert import from_bytes
from .adaptive_augment import AdaptiveAugment
from .average import averaged_copy, move_average
from .discriminator import Discriminator
from .feature_discriminator import FeatureDiscriminator


class GANTraining(pl.LightningModule):
    """Training of a StyleGAN2 generator on pictures; the attribute `average` is the moving average that is exported.

    The discriminator minimises softplus(D(G(z))) + softplus(-D(x)), and every `r1_interval` steps γ/2·‖∇D(x)‖² times
    the interval. The generator minimises softplus(-D(G(z))). Both networks of a step see the same generated pictures.
    Batches are pictures (B, 3, R, R), uint8 or in [-1, 1], alone or as the first entry of a tuple.

    Args:
        generator: arguments of `StyleGAN2Network`.
        discriminator: arguments of `Discriminator`.
        learning_rate: Adam's learning rate of the discriminator, above 0.
        generator_learning_rate: learning rate of the generator, above 0; None is `learning_rate`.
        r1_gamma: γ of the gradient penalty R1, 0 or more.
        r1_interval: steps between two penalties, at least 1.
        r1_fraction: share of the batch that the penalty is computed on, above 0, at most 1.
        ema_kimg: half-life of the moving average in thousands of pictures, above 0.
        augment_target: target of `AdaptiveAugment`; from 1 on there is no augmentation.
        augment_kimg: speed of `AdaptiveAugment` in thousands of pictures, above 0.
        bf16: compute features of both networks in bfloat16. Parameters, pictures, losses and R1 stay in float32.
        start: weights that the generator begins from (shipped name or file), None for random ones.
        settle_kimg: thousands of pictures, 0 or more, during which the discriminator trains alone. It applies with
            `start` only, whose files hold no discriminator.
        features: weights of an image classifier for an additional `FeatureDiscriminator`, None for no such
            discriminator. Both losses then have the mean of the logistic losses of its heads as well.
        features_weight: factor of that loss, 0 or more.
        cooldown: share of the training, from 0 to 1, at the end of which both learning rates have fallen linearly to a
            tenth.

    Raises:
        LaceError: for a cooldown outside [0, 1], and for weights that do not fit the generator.

    References:
        StyleGAN2 (arXiv 1912.04958); lazy regularisation, its section 3.1.

    Example:
        >>> synthesis = {"channels": {4: 8, 8: 8}}
        >>> config = {"z_dim": 8, "w_dim": 8, "img_resolution": 8, "synthesis_kwargs": synthesis}
        >>> training = GANTraining(config, {"channels": [8, 8]}, bf16=False, cooldown=0.5)
        >>> training.sample(2).shape, round(training.rate_factor(75, 100), 2)
        (torch.Size([2, 3, 8, 8]), 0.55)
    """

    images_seen: Tensor

    def __init__(
        self,
        generator: Mapping[str, Any],
        discriminator: Mapping[str, Any] | None = None,
        learning_rate: float = 2.5e-3,
        generator_learning_rate: float | None = None,
        r1_gamma: float = 0.05,
        r1_interval: int = 16,
        r1_fraction: float = 0.5,
        ema_kimg: float = 10.0,
        augment_target: float = 0.6,
        augment_kimg: float = 500.0,
        bf16: bool = True,
        start: str | None = None,
        settle_kimg: float = 10.0,
        features: str | None = None,
        features_weight: float = 1.0,
        cooldown: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= cooldown <= 1:
            raise LaceError(
                f"training.cooldown must be a share of the training from 0 to 1, received {cooldown}: set 0 to keep "
                "the learning rates constant."
            )
        self.save_hyperparameters(
            {
                "generator": to_builtin(generator),
                "discriminator": to_builtin(discriminator or {}),
                "learning_rate": learning_rate,
                "generator_learning_rate": generator_learning_rate,
                "r1_gamma": r1_gamma,
                "r1_interval": r1_interval,
                "r1_fraction": r1_fraction,
                "ema_kimg": ema_kimg,
                "augment_target": augment_target,
                "augment_kimg": augment_kimg,
                "bf16": bf16,
                "start": start,
                "settle_kimg": settle_kimg,
                "features": features,
                "features_weight": features_weight,
                "cooldown": cooldown,
            }
        )
        self.automatic_optimization = False
        self.generator = StyleGAN2Network(**generator)
        if start is not None:
            self._begin_from(start)
        self.average = averaged_copy(self.generator)
        self.discriminator = Discriminator(**(discriminator or {}))
        self.feature_discriminator = None if features is None else FeatureDiscriminator(features)
        self.augment = AdaptiveAugment(augment_target, augment_kimg)
        self.register_buffer("images_seen", torch.zeros([], dtype=torch.long))
        self.features_dtype = torch.bfloat16 if bf16 else torch.float32

    def _begin_from(self, start: str) -> None:
        state, _ = read_network(start)
        try:
            self.generator.load_state_dict(state)
        except RuntimeError as error:
            raise LaceError(
                f"The weights '{start}' must fit the generator of this configuration and do not "
                f"({' '.join(str(error).split())[:200]}): give the same network, or start=null."
            ) from error

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers of generator and discriminator."""
        # Lazy regularisation needs Adam without first moments (β₁ = 0), as in StyleGAN2.
        trained = list(self.generator.parameters()), self._critics()
        return [
            torch.optim.Adam(parameters, lr=lr, betas=(0.0, 0.99), fused=True)
            for parameters, lr in zip(trained, self._rates(), strict=True)
        ]

    def _rates(self) -> tuple[float, float]:
        """Return the learning rates of generator and discriminator."""
        rate = self.hparams["learning_rate"]
        return self.hparams["generator_learning_rate"] or rate, rate

    def rate_factor(self, step: int, steps: int) -> float:
        """Return the factor of the learning rates at `step` of `steps`: 1, falling to about 0.1 during the cooldown."""
        left = (steps - step) / max(1.0, self.hparams["cooldown"] * steps)
        result: float = min(1.0, 0.1 + 0.9 * left)
        return result

    def _set_rates(self, optimizers: Sequence[Any], step: int) -> None:
        if not self.hparams["cooldown"] or (steps := self.trainer.estimated_stepping_batches) == float("inf"):
            return
        for optimizer, lr in zip(optimizers, self._rates(), strict=True):
            optimizer.param_groups[0]["lr"] = lr * self.rate_factor(step, int(steps))

    def _critics(self) -> list[torch.nn.Parameter]:
        """Return the parameters that are trained against the generator."""
        heads = [] if self.feature_discriminator is None else self.feature_discriminator.heads.parameters()
        return [*self.discriminator.parameters(), *heads]

    def _feature_loss(self, images: Tensor, real: bool) -> Tensor:
        """Return the mean logistic loss of the heads on pictures of which `real` says whether they count as real."""
        if self.feature_discriminator is None:
            return images.new_zeros([])
        sign = -1.0 if real else 1.0
        losses = [
            F.softplus(sign * logits).mean() for logits in self.feature_discriminator(images, self.features_dtype)
        ]
        result: Tensor = self.hparams["features_weight"] * torch.stack(losses).mean()
        return result

    def training_step(self, batch: Any, batch_index: int) -> None:
        """Make one step of the discriminator and one of the generator."""
        real = from_bytes(batch[0] if isinstance(batch, (list, tuple)) else batch)
        optimizer_g, optimizer_d = self.optimizers()  # type: ignore[attr-defined]
        # Both optimizers step once a batch, and Lightning counts both.
        self._set_rates((optimizer_g, optimizer_d), self.global_step // 2)
        settling = self.hparams["start"] is not None and self.images_seen < 1000 * self.hparams["settle_kimg"]
        with torch.set_grad_enabled(not settling):
            fake = self._fakes(real.shape[0])
        loss_d = self._discriminator_step(optimizer_d, real, fake.detach(), batch_index)
        loss_g = self._rest(optimizer_g) if settling else self._generator_step(optimizer_g, fake)
        self.images_seen += real.shape[0] * self.trainer.world_size
        self._update_average(real.shape[0] * self.trainer.world_size)
        if batch_index % 50 == 0:
            self.log_dict(
                {
                    "loss_g": loss_g,
                    "loss_d": loss_d,
                    "loss_features": self.feature_loss,
                    "signal": self.augment.signal,
                    "augment": self.augment.probability,
                    "kimg": self.images_seen / 1000.0,
                },
                prog_bar=True,
            )

    def _fakes(self, count: int) -> Tensor:
        z = torch.randn(count, self.generator.z_dim, device=self.device)
        w = self.generator.mapping(z)
        if torch.is_grad_enabled():
            self.generator.mapping.w_avg.lerp_(w.detach().mean(0), 0.005)
        result: Tensor = self.generator.synthesis(self.generator.broadcast(w), "random", self.features_dtype)
        return result

    def _discriminator_step(self, optimizer: Any, real: Tensor, fake: Tensor, step: int) -> Tensor:
        # Real and generated pictures pass separately: minibatch statistics must not mix them.
        shown_real, shown_fake = self.augment(real), self.augment(fake)
        real_logits = self.discriminator(shown_real, self.features_dtype)
        fake_logits = self.discriminator(shown_fake, self.features_dtype)
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        features = self._feature_loss(shown_real, True) + self._feature_loss(shown_fake, False)
        optimizer.zero_grad()
        self.manual_backward(loss + features)
        self.feature_loss = features.detach()
        interval = self.hparams["r1_interval"]
        if step % interval == 0:
            self.manual_backward(self._gradient_penalty(real) * interval)
        optimizer.step()
        self.augment.adapt(real_logits.detach())
        return loss.detach()

    def _gradient_penalty(self, real: Tensor) -> Tensor:
        """R1 = γ/2·E‖∇D(x)‖² on a part of the batch."""
        count = max(1, int(real.shape[0] * self.hparams["r1_fraction"]))
        x = self.augment(real[:count]).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
        result: Tensor = self.hparams["r1_gamma"] / 2 * gradient.square().sum((1, 2, 3)).mean()
        return result

    def _generator_step(self, optimizer: Any, fake: Tensor) -> Tensor:
        critics = self._critics()
        for parameter in critics:
            parameter.requires_grad_(False)
        shown = self.augment(fake)
        loss = F.softplus(-self.discriminator(shown, self.features_dtype)).mean()
        optimizer.zero_grad()
        self.manual_backward(loss + self._feature_loss(shown, True))
        optimizer.step()
        for parameter in critics:
            parameter.requires_grad_(True)
        return loss.detach()

    @staticmethod
    def _rest(optimizer: Any) -> Tensor:
        """Make a step that changes nothing.

        Lightning numbers checkpoints by the steps of all optimizers, so that each of them must step.
        """
        optimizer.zero_grad()
        optimizer.step()
        return torch.zeros([])

    @torch.no_grad()
    def _update_average(self, count: int) -> None:
        """Move the average towards the generator with a half-life of `ema_kimg`.

        Without `start` the half-life is at most a twentieth of the pictures seen so far.
        """
        half_life = self.hparams["ema_kimg"] * 1000
        if self.hparams["start"] is None:
            half_life = min(half_life, 0.05 * float(self.images_seen))
        weight = 1 - 0.5 ** (count / max(half_life, 1e-8))
        move_average(self.average, self.generator, weight)

    def export(self, path: str | os.PathLike[str], precision: str = "auto") -> None:
        """Write the moving average in half precision as a generator that `load_generator` reads."""
        save_network(self.average, self.hparams["generator"], path, {"precision": precision}, torch.float16)

    @torch.no_grad()
    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Return pictures (count, 3, R, R) of the moving average in [-1, 1], which depend on the seed alone."""
        z = torch.randn(count, self.generator.z_dim, generator=torch.Generator().manual_seed(seed)).to(self.device)
        result: Tensor = self.average(z, dtype=self.features_dtype).clamp(-1, 1)
        return result
