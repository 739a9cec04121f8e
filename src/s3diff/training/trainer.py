"""The reconstruction phase: low quality from ground truth, online negatives, one step of the generator, one update."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from s3diff.checkpoints.weights_file import read_torch_file
from s3diff.degradation import synthesis
from s3diff.errors import ModelError, OptionError, TrainingError
from s3diff.images.resampling import enlarge, to_network_range
from s3diff.networks.degradation_estimator import DegradationEstimator
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.training.config import TrainConfig
from s3diff.training.data import CropSampler
from s3diff.training.losses import ReconstructionLoss

_LOGGER = logging.getLogger(__name__)

_CHECKPOINT_KEYS = {"config", "step", "model", "average", "optimiser", "random"}
#: Log-variance that a fresh encoder starts from: a latent noise of std 0.05, which training may change.
_START_LOG_VARIANCE = -6.0
#: SiLU of a unit Gaussian has a mean square of 0.356.
_SILU_GAIN = 1.68
#: Fresh residual branches start at a tenth, so that networks without norms begin near the identity.
_START_BRANCH_SCALE = 0.1


class TrainableModel(nn.Module):
    """The generator and the two prompt embeddings that are learned with it."""

    def __init__(self, config: TrainConfig, estimator: DegradationEstimator) -> None:
        super().__init__()
        self.generator = OneStepGenerator(config.generator)
        self.generator.estimator.load_state_dict(estimator.state_dict())
        self.generator.estimator.requires_grad_(False)
        context_channels = config.generator.unet.context_channels
        self.positive = nn.Parameter(torch.randn(config.prompt_tokens, context_channels))
        self.negative = nn.Parameter(torch.randn(config.prompt_tokens, context_channels))
        _initialise(self.generator)

    def forward(self, low_quality: Tensor, image: Tensor, is_negative: Tensor, noise: Tensor | None) -> Tensor:
        """Restored images with one prompt each.

        Args:
            low_quality: [B, 3, h, w] in [0, 1].
            image: [B, 3, H, W] in [-1, 1], the enlarged low-quality image.
            is_negative: [B] bool, which images get the negative prompt.
            noise: standard normal of the latent's shape, or None for the mean.

        Returns:
            [B, 3, H, W] in [-1, 1].
        """
        generator = self.generator
        with torch.no_grad():
            degrees = generator.estimator(low_quality)
        for_encoder, for_unet = generator.conditioning(degrees)
        latent = generator.encode(image, for_encoder, noise)
        context = torch.where(is_negative[:, None, None], self.negative, self.positive)
        prediction = generator.predict(latent, context, for_unet)
        return generator.decode(generator.config.schedule.clean_latent(latent, prediction), image)


class Trainer:
    """Runs a configuration, logs, and saves everything that is needed to go on.

    Args:
        config: the run.
        data: folder of ground-truth pictures.
        output: folder of the run: ``checkpoint.pt`` and ``log.jsonl``.
        estimator: trained; stays frozen.
    """

    def __init__(self, config: TrainConfig, data: Path, output: Path, estimator: DegradationEstimator) -> None:
        multiple = config.generator.pad_multiple
        if config.data.crop_px % multiple or config.data.crop_px % config.data.scale:
            raise OptionError(f"crop_px is {config.data.crop_px}; give a multiple of {multiple} and of the scale")
        unknown = [name for name in config.data.degradations if name not in synthesis.PRESETS]
        if unknown or not config.data.degradations:
            raise OptionError(
                f"degradations is {config.data.degradations}; give some of {', '.join(synthesis.PRESETS)}"
            )
        if min(config.log_every, config.checkpoint_every) < 1:
            raise OptionError("log_every and checkpoint_every count steps; give 1 or more")
        torch.manual_seed(config.seed)
        self.config = config
        self.output = output
        self.model = TrainableModel(config, estimator)
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.loss = ReconstructionLoss(config.loss)
        self.sampler = CropSampler(data, config.data.crop_px, config.data.min_detail, config.data.held_out)
        optimiser = config.optimiser
        self.optimiser = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=optimiser.learning_rate,
            betas=optimiser.betas,
            eps=optimiser.eps,
            weight_decay=optimiser.weight_decay,
        )
        self.random = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self._random_state = self.random.get_state()
        self._is_updating = False

    def run(self) -> None:
        """Train until ``max_steps``; a checkpoint is written on the way, at the end and on Ctrl-C."""
        self.output.mkdir(parents=True, exist_ok=True)
        config, started, recent = self.config, time.monotonic(), []
        try:
            while self.step < config.optimiser.max_steps:
                recent.append(self.train_step())
                if self.step % config.log_every == 0:
                    means = {name: sum(entry[name] for entry in recent) / len(recent) for name in recent[0]}
                    means["images_per_second"] = len(recent) * config.data.batch_size / (time.monotonic() - started)
                    self._log(means)
                    started, recent = time.monotonic(), []
                if self.step % config.checkpoint_every == 0:
                    self.save()
        finally:
            # An interrupted step is drawn anew after resuming; one cut off in the middle of its update is not saved.
            if not self._is_updating:
                self.save()

    def train_step(self) -> dict[str, float]:
        """One batch and one update; returns the losses before weighting."""
        config = self.config
        ground_truth = self.sampler.draw(config.data.batch_size, self.random)
        height, width = ground_truth.shape[2:]
        presets = config.data.degradations
        settings = synthesis.PRESETS[presets[int(torch.randint(len(presets), (), generator=self.random))]]
        drawn = synthesis.draw(settings, len(ground_truth), height, width, config.data.scale, self.random)
        low_quality = synthesis.apply(ground_truth, drawn)
        image = to_network_range(enlarge(low_quality, height, width, mode=config.upsampling))
        # Online negative prompting: these images learn what the negative prompt stands for.
        is_negative = torch.rand(len(ground_truth), generator=self.random) < config.negative_probability
        target = torch.where(is_negative[:, None, None, None], image, to_network_range(ground_truth))
        side = height // config.generator.autoencoder.downscale, width // config.generator.autoencoder.downscale
        latent_shape = (len(ground_truth), config.generator.autoencoder.latent_channels, *side)
        noise = torch.randn(latent_shape, generator=self.random)

        losses = self.loss(self.model(low_quality, image, is_negative, noise), target, self.random)
        values = {name: float(value.detach()) for name, value in losses.items()}
        self._update(losses["total"], values)
        return values

    def _update(self, loss: Tensor, values: dict[str, float]) -> None:
        rate = self.config.optimiser.rate_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optimiser.clip_norm)
        if not math.isfinite(values["total"]) or not torch.isfinite(norm):
            raise TrainingError(
                f"step {self.step}: the loss is {values['total']}, the gradient norm {float(norm)}; go on from the "
                "last checkpoint with a lower optimiser.learning_rate"
            )
        self._is_updating = True
        self.optimiser.step()
        values["gradient_norm"], values["learning_rate"] = float(norm), rate
        self.step += 1
        decay = min(self.config.optimiser.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)
        self._random_state = self.random.get_state()
        self._is_updating = False

    def save(self) -> Path:
        """Write the checkpoint: weights, their average, optimiser, random state, step. Atomic."""
        path = self.output / "checkpoint.pt"
        temporary = path.with_suffix(".pt.partial")
        torch.save(
            {
                "config": asdict(self.config),
                "step": self.step,
                "model": self.model.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
                "random": self._random_state,
            },
            temporary,
        )
        os.replace(temporary, path)
        return path

    def resume(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of the same networks; loss, data and schedule may have changed.

        Raises:
            ModelError: no checkpoint there, or one of other networks.
        """
        if not checkpoint.is_file():
            raise ModelError(f"{checkpoint} does not exist; start without --resume")
        state = read_torch_file(checkpoint)
        if not isinstance(state, dict) or not state.keys() >= _CHECKPOINT_KEYS:
            raise ModelError(f"{checkpoint} is no checkpoint of s3diff train; give the folder of a run")
        if state["config"]["generator"] != asdict(self.config.generator):
            raise ModelError(f"{checkpoint} holds other networks than the recipe; give the recipe it was made by")
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.random.set_state(state["random"])
        self._random_state = state["random"]
        self.step = state["step"]

    def _log(self, values: dict[str, float]) -> None:
        _LOGGER.info("step %d  %s", self.step, "  ".join(f"{name} {value:.4g}" for name, value in values.items()))
        with open(self.output / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"step": self.step, **values}) + "\n")


def averaged_model(trainer: Trainer) -> TrainableModel:
    """The model with averaged weights (EMA), which is what a run delivers."""
    model = TrainableModel(trainer.config, trainer.model.generator.estimator)
    model.load_state_dict(trainer.average)
    return model.eval()


def _initialise(generator: OneStepGenerator) -> None:
    """Start values for networks without norms: the signal keeps its size on its way, residual branches start small.

    torch's own start shrinks the signal by about 0.3 at every SiLU and convolution; after the dozen in a row that the
    three networks are, the last layer sees nothing and learns nothing.
    """
    autoencoder, config = generator.autoencoder, generator.config.autoencoder
    for network in (autoencoder, generator.unet):
        for name, module in network.named_modules():
            if not isinstance(module, nn.Conv2d | nn.Linear):
                continue
            gain = _SILU_GAIN if name.endswith(("conv1", "conv2", "conv_out")) else 1.0
            if name.endswith((".conv2", ".proj_out", ".time_emb_proj")):
                gain *= _START_BRANCH_SCALE
            nn.init.normal_(module.weight, std=gain / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    if config.residual:
        # The start is the enlarged input itself.
        nn.init.zeros_(autoencoder.decoder.conv_out.weight)
    weight, bias = autoencoder.quant_conv.parameters()
    weight.data[config.latent_channels :] *= _START_BRANCH_SCALE
    bias.data[config.latent_channels :] = _START_LOG_VARIANCE
