"""How the released code restores a picture, written to be read: the twin that ``restore_latency.py`` compares with.

Facts of the release, all kept: LoRA per sample, never folded; one UNet pass for each prompt; both prompts encoded for
every picture; its own tiles; the result goes to the host as 8 bits, where its colours are matched. Left out, so that
the twin is faster than the release on large pictures: there every tile's activations go to the host at every norm.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from s3diff import RestoreOptions
from s3diff.checkpoints.model_folder import LoadedModel
from s3diff.images.color_match import match_color
from s3diff.images.picture import Picture, from_tensor, to_tensor
from s3diff.images.resampling import crop, enlarge, from_network_range, pad_to_multiple, to_network_range
from s3diff.options import ReleasedTiles
from s3diff.restoration.tile_plan import plan_tiles
from s3diff.restoration.tiled_stages import TiledStages


class ReleasedFlow:
    """A model as the release runs it.

    Args:
        model: its generator is used as it is, moved to the device; nothing else may have changed it.
        device: where it runs.
        dtype: of the networks; float16 leaves the autoencoder in float32, as ``Restorer`` does.
        text_encoder: run for both prompts of every picture, for its time alone; None where the model has none.
    """

    def __init__(
        self, model: LoadedModel, device: torch.device, dtype: torch.dtype, text_encoder: nn.Module | None = None
    ) -> None:
        self.device, self.dtype, self.config = device, dtype, model.config
        self.generator = model.generator.to(device)
        self.generator.unet.to(dtype)
        self.generator.autoencoder.to(torch.float32 if dtype == torch.float16 else dtype)
        self.text_encoder = None if text_encoder is None else text_encoder.to(device, dtype)
        self.upsampling, self.guidance = model.upsampling, model.guidance
        self.prompts = [embedding[None].to(device) for embedding in (model.prompts.positive, model.prompts.negative)]

    @torch.inference_mode()
    def restore(self, picture: Picture, options: RestoreOptions) -> tuple[Picture, dict[str, float]]:
        """The restored picture, and seconds by stage."""
        seconds: dict[str, float] = {}
        generator, options = self.generator, options.for_model(self.upsampling, self.guidance)
        assert options.guidance is not None, "for_model fills it in"
        width, height = options.output_size(picture.width, picture.height)
        if self.text_encoder is not None:
            with self._timed(seconds, "text"):
                self._encode_prompts(self.text_encoder)
        tiled = replace(options, released_tiles=ReleasedTiles())
        padded = (-(-side // self.config.pad_multiple) * self.config.pad_multiple for side in (height, width))
        stages = TiledStages(generator, plan_tiles(self.config, *padded, tiled, self.device, self.dtype, 1))
        with self._timed(seconds, "prepare"):
            low_quality = to_tensor(picture).to(self.device)
            base = enlarge(low_quality, height, width, mode=self.upsampling)
            image = pad_to_multiple(to_network_range(base), self.config.pad_multiple)
        with self._timed(seconds, "estimate"):
            for_encoder, for_unet = generator.conditioning(generator.estimator(low_quality))
        with self._timed(seconds, "encode"):
            latent = stages.encode(image, for_encoder)
        with self._timed(seconds, "predict"):
            # Guidance 1 is one prompt alone.
            positive, negative = (
                stages.predict_guided(latent, prompt, prompt, 1.0, for_unet) for prompt in self.prompts
            )
            prediction = negative + options.guidance * (positive - negative)
        with self._timed(seconds, "decode"):
            clean = self.config.schedule.clean_latent(latent, prediction)
            decoded = crop(from_network_range(stages.decode(clean, image)), height, width)
        with self._timed(seconds, "color"):
            eight_bits = (255 * decoded.cpu()).floor() / 255  # to the host, and truncated
            result = match_color(eight_bits, base.cpu(), options.color_match)
            restored = replace(picture, pixels=from_tensor(result, picture))
        return restored, {**seconds, "total": sum(seconds.values())}

    def _encode_prompts(self, text_encoder: nn.Module) -> None:
        tokens = torch.zeros(1, self.prompts[0].shape[1], dtype=torch.long, device=self.device)
        for _ in self.prompts:
            text_encoder(tokens)

    @contextmanager
    def _timed(self, seconds: dict[str, float], stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds[stage] = time.perf_counter() - started
