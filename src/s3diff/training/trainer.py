"""Train the generator: three phases per step, an average of the weights, validation through the Restorer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from s3diff.errors import OptionError
from s3diff.training import phases
from s3diff.training.adversarial.discriminator import Discriminator, PatchDiscriminator, frozen
from s3diff.training.config import TrainConfig
from s3diff.training.data.crops import CropDataset
from s3diff.training.initial_model import InitialModel, delivered_model, sampled_fingerprint
from s3diff.training.loop import Loop, add_means, step_generator
from s3diff.training.losses import ReconstructionLoss
from s3diff.training.run_checkpoints import RunState
from s3diff.training.tracking import Tracker
from s3diff.training.trainable_model import checkpoint_gradients, freeze_in_bfloat16
from s3diff.training.validation import Validation

_LOGGER = logging.getLogger(__name__)

#: The average follows the first steps faster: decay (1 + step) / (10 + step) until that exceeds the configured one.
_AVERAGE_WARMUP_STEPS = 10


class Trainer(Loop):
    """Train the generator.

    Args:
        start: from :func:`s3diff.training.initial_model.prepare_initial_model`; its model is trained in place.
        crops: ground-truth crops by position.
        source: the value of ``--from``, stored with the checkpoints.
        accelerator: processes and devices; None for this process on the best device.
        validation: None to validate nothing.

    Raises:
        MissingExtraError: weights of a perceptual loss or of the discriminator are missing.
    """

    kind = "generator"
    config: TrainConfig

    def __init__(
        self,
        start: InitialModel,
        crops: CropDataset,
        output: Path,
        *,
        source: str | None = None,
        accelerator: Accelerator | None = None,
        validation: Validation | None = None,
    ) -> None:
        config = start.config
        super().__init__(config, crops, output, accelerator)
        self.start, self.source, self.validation = start, source, validation
        self.model, self.validate_every = start.model, config.validation.every
        self.base_fingerprint = sampled_fingerprint(self.model.frozen_base())
        if config.frozen_precision == "bfloat16":
            freeze_in_bfloat16(self.model)
        if config.gradient_checkpointing:
            checkpoint_gradients(self.model)
        self.model.to(self.device)
        self._wrapped: nn.Module = self._spread(self.model)
        self.loss = ReconstructionLoss(config.loss).to(self.device)
        self._add_optimiser("generator", self.model, config.optimiser.learning_rate)
        self.discriminator = self._make_discriminator()
        averaged = self.model.trained_state() if config.optimiser.ema_decay else {}
        self.average = {name: value.clone() for name, value in averaged.items()}

    def _make_discriminator(self) -> Discriminator | PatchDiscriminator | None:
        config = self.config.adversarial
        if not config.weight or config.discriminator.backbone == "none":
            return None
        discriminator: Discriminator | PatchDiscriminator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.run.seed)
            if config.discriminator.backbone == "pixels":
                discriminator = PatchDiscriminator(config.discriminator.hidden_channels)
            else:
                discriminator = Discriminator(config.discriminator)
        discriminator.to(self.device)
        self._wrapped_discriminator: nn.Module = self._spread(discriminator)
        self._add_optimiser("discriminator", discriminator, config.learning_rate)
        return discriminator

    def train_step(self, ground_truth: list[Tensor]) -> dict[str, Tensor]:
        """Run the three phases on this process's crops; see :meth:`Loop.train_step`."""
        config = self.config
        generator = step_generator(config.run.seed, self.step)
        batches = [self._make_batch(crops, generator) for crops in ground_truth]
        self._set_rates()
        values: dict[str, Tensor] = {}
        pixels_alone = self.step < config.loss.perceptual_from_step
        judge = self.discriminator if self.step >= config.adversarial.start_step else None
        pairs: list[phases.Pair] = []

        for index, batch in enumerate(batches):
            with self._gathering(self._wrapped, index):
                losses, pair = phases.reconstruction(
                    self._wrapped, batch, self.loss, generator, pixels_alone=pixels_alone
                )
                if isinstance(judge, PatchDiscriminator):
                    with frozen(judge):
                        losses["adversarial"] = phases.paired(judge, pair)
                    losses["total"] = losses["total"] + config.adversarial.weight * losses["adversarial"]
                    pairs.append(pair)
                self._backward(losses["total"])
            add_means(values, losses, len(batches))
        values["gradient_norm"] = self._update_generator(values["total"])

        if isinstance(judge, PatchDiscriminator):
            passes = [partial(phases.discriminate_pair, self._wrapped_discriminator, pair) for pair in pairs]
            values["discriminator_gradient_norm"] = self._discriminate(judge, "discriminator", passes, values)
        elif judge is not None:
            self._adversarial_phases(judge, batches, values)
        self.step += 1
        self._move_average()
        return values

    def _discriminate(
        self, discriminator: nn.Module, name: str, passes: Sequence[Callable[[], Tensor]], values: dict[str, Tensor]
    ) -> Tensor:
        """Update the discriminator once by the losses that ``passes`` compute; return the gradients' norm."""
        for index, compute in enumerate(passes):
            with self._gathering(self._wrapped_discriminator, index):
                loss = compute()
                self._backward(self.config.adversarial.discriminator_weight * loss)
            add_means(values, {name: loss}, len(passes))
        return self._update("discriminator", discriminator, values[name])

    def _adversarial_phases(
        self, discriminator: Discriminator, batches: list[phases.Batch], values: dict[str, Tensor]
    ) -> None:
        """Run phases 2 and 3. The discriminator's heads learn from phase 3 only."""
        config, wrapped = self.config.adversarial, self._wrapped_discriminator
        label, keeps_gradients = config.discriminator.real_label, self.config.faults.discriminator_keeps_gradients
        results: list[Tensor] = []
        for index, batch in enumerate(batches):
            with self._gathering(self._wrapped, index):
                with nullcontext() if keeps_gradients else frozen(discriminator):
                    loss, result = phases.adversarial(self._wrapped, discriminator, batch, label)
                self._backward(config.weight * loss)
            results.append(result)
            add_means(values, {"adversarial": loss}, len(batches))
        values["adversarial_gradient_norm"] = self._update_generator(values["adversarial"])

        on_real = [partial(phases.discriminate_real, wrapped, batch, label) for batch in batches]
        self._discriminate(discriminator, "discriminator_real", on_real, values)
        pairs = zip(results, batches, strict=True)
        on_fake = [partial(phases.discriminate_fake, wrapped, result, batch) for result, batch in pairs]
        self._discriminate(discriminator, "discriminator_fake", on_fake, values)

    def _make_batch(self, crops: Tensor, generator: torch.Generator) -> phases.Batch:
        """Degrade ``crops``, this process's rows of the batch that ``generator`` draws for."""
        batch_size = len(crops) * self.accelerator.num_processes
        drawn = phases.draw_batch(self.config, batch_size, generator).rows(*self._own_rows(batch_size))
        return phases.make_batch(crops.to(self.device, non_blocking=True), drawn, self.config.upsampling)

    def _update_generator(self, loss: Tensor) -> Tensor:
        norm = self._update("generator", self.model, loss)
        if self.config.faults.trained_weights_in_bfloat16 and self.config.precision == "bfloat16":
            for parameter in self.model.trained_state().values():
                parameter.copy_(parameter.to(torch.bfloat16))
        return norm

    def _set_rates(self) -> None:
        config = self.config
        counted = 2 * self.step if config.faults.schedule_advances_twice else self.step
        factor = config.optimiser.factor_at(counted)
        rates = {"generator": config.optimiser.learning_rate, "discriminator": config.adversarial.learning_rate}
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[name] * factor

    @torch.no_grad()
    def _move_average(self) -> None:
        if not self.average:
            return
        decay = min(self.config.optimiser.ema_decay, (1 + self.step) / (_AVERAGE_WARMUP_STEPS + self.step))
        trained = self.model.trained_state()
        torch._foreach_lerp_(list(self.average.values()), [trained[name] for name in self.average], 1 - decay)

    def validate(self, tracker: Tracker) -> None:
        """Restore the validation's pictures with the averaged weights; the other processes wait."""
        if self.validation is not None and self.accelerator.is_main_process:
            model = delivered_model(self.start, self.model, self.average)
            figures, grid = self.validation.score(model, self.device)
            path = self.validation.write_grid(grid, self.step)
            tracker.write(self.step, figures)
            tracker.write_picture(self.step, "validation/pictures", grid)
            named = "  ".join(f"{name.removeprefix('validation/')} {value:.4f}" for name, value in figures.items())
            _LOGGER.info("step %d  validation  %s  %s", self.step, named, path)
        self.accelerator.wait_for_everyone()

    def own_state(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "model": self.model.small_state(),
            "average": self.average,
            "heads": self.discriminator.state_dict() if self.discriminator is not None else {},
        }

    def load(self, state: RunState) -> None:
        """Load a checkpoint of the same networks; a discriminator that it lacks starts afresh.

        Raises:
            OptionError: it has a discriminator and this run has none, or one has an average and the other has not.
        """
        if (state.heads and self.discriminator is None) or bool(state.average) != bool(self.average):
            raise OptionError(
                "the run was started with a discriminator and goes on without, or with an average of the weights and "
                "without, or the other way round; leave adversarial.weight and optimiser.ema_decay as they were"
            )
        self.model.load_state_dict({**self.model.state_dict(), **state.model})
        if self.discriminator is not None and state.heads:
            self.discriminator.load_state_dict(state.heads)
        self.average = {name: value.to(self.device) for name, value in state.average.items()}
