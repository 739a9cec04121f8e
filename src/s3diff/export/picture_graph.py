"""Build the whole method as one module, from the low-quality picture to the result, for pictures of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.checkpoints.model_folder import StoredPrompts
from s3diff.images.color_match import match_color
from s3diff.images.resampling import from_network_range, to_network_range
from s3diff.networks.graphs import EncodeGraph, PredictGraph, with_fixed_timestep
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.options import METHOD_SCALE, ColorMatch, Upsampling

#: Degrees below 0 ask for the estimate.
ESTIMATE = -1.0


class PictureGraph(nn.Module):
    """Restore one opaque sRGB picture four times as large.

    Args:
        generator: float32, on the CPU.
        prompts: embeddings, constants of the graph.
        upsampling: filter that enlarges the input.
        guidance: a constant of the graph; at 1 the negative prompt is left out.
        color_match: how colours are taken from the enlarged input.
    """

    context: Tensor
    guidance: Tensor

    def __init__(
        self,
        generator: OneStepGenerator,
        prompts: StoredPrompts,
        *,
        upsampling: Upsampling,
        guidance: float,
        color_match: ColorMatch,
    ) -> None:
        super().__init__()
        self.encode = EncodeGraph(with_fixed_timestep(generator))
        self.generator = self.encode.generator
        self.predict = PredictGraph(self.generator, is_guided=guidance != 1)
        self.upsampling, self.color_match = upsampling, color_match
        both = (prompts.positive, prompts.negative) if guidance != 1 else (prompts.positive,)
        self.register_buffer("context", torch.stack(both))
        self.register_buffer("guidance", torch.tensor([float(guidance)]))

    def forward(self, low_quality: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
        """Restore a picture.

        Args:
            low_quality: [1, 3, h, w] float32 RGB in [0, 1].
            degrees: [1, 2] blur and noise in [0, 1]; below 0 for the estimate.

        Returns:
            The result [1, 3, 4 h, 4 w] in [0, 1], and the degrees that were used, [1, 2].
        """
        generator = self.generator
        height, width = (METHOD_SCALE * side for side in low_quality.shape[2:])
        used = torch.where(degrees < 0, generator.estimator(low_quality), degrees)
        for_encoder, for_unet = generator.conditioning(used)
        base = F.interpolate(low_quality, size=(height, width), mode=self.upsampling, align_corners=False).clamp(0, 1)
        image = to_network_range(_padded(base, generator.config.pad_multiple))
        latent = self.encode(image, for_encoder)
        prediction = self.predict(latent, for_unet, self.context, self.guidance)
        clean = generator.config.schedule.clean_latent(latent, prediction)
        decoded = from_network_range(generator.decode(clean, image))[:, :, :height, :width]
        return match_color(decoded, base, self.color_match).clamp(0, 1), used


def _padded(image: Tensor, multiple: int) -> Tensor:
    """Pad like its twin :func:`s3diff.images.resampling.pad_to_multiple`, as one graph for all sizes."""
    for dimension in (-2, -1):
        side = image.shape[dimension]
        places = torch.arange((side + multiple - 1) // multiple * multiple, device=image.device)
        # A tensor, and no remainder: ONNX has none for a side that is open. Never 0: four pixels are the fewest.
        period = torch.scalar_tensor(2 * (side - 1), dtype=torch.int64, device=image.device)
        places = places - torch.div(places, period, rounding_mode="floor") * period
        image = image.index_select(dimension, torch.minimum(places, period - places))
    return image
