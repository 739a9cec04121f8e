"""A tiny model of the ``compact`` kind, and what several tests of files share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from s3diff.checkpoints.model_folder import StoredPrompts, save_model
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig
from s3diff.training.recipes import debug
from s3diff.training.trainable_model import fresh_prompts, initialise_from_scratch

#: A model of the ``compact`` kind: no statistics over the picture, no text encoder, a decoder of its own.
COMPACT = GeneratorConfig(
    unet=UNetConfig(
        block_out_channels=(8, 12),
        num_heads=(2, 2),
        cross_attention=(True, True),
        self_attention=False,
        layers_per_block=1,
        context_channels=6,
        norm="none",
        upsample="bilinear",
        lora_rank=2,
    ),
    autoencoder=AutoencoderConfig(
        block_out_channels=(8,),
        decoder_channels=(8, 8, 8),
        layers_per_block=1,
        pixel_unshuffle=4,
        norm="none",
        attention=False,
        upsample="bilinear",
        residual=True,
        lora_rank=2,
    ),
    estimator=DegradationEstimatorConfig(stage_channels=(4, 6), hidden_channels=8),
)

#: The released kind with few layers: norms and attention (in the middles) over the whole picture, padding to 8 px.
WHOLE_PICTURE = GeneratorConfig(
    unet=UNetConfig(
        block_out_channels=(16, 32),
        num_heads=(2, 4),
        cross_attention=(False, False),
        layers_per_block=1,
        context_channels=32,
        norm_num_groups=16,
        lora_rank=6,
    ),
    autoencoder=AutoencoderConfig(block_out_channels=(32, 32, 32), layers_per_block=1, lora_rank=4),
    estimator=DegradationEstimatorConfig(stage_channels=(4, 6), hidden_channels=8),
)


def compact_parts() -> tuple[OneStepGenerator, StoredPrompts]:
    torch.manual_seed(3)
    return OneStepGenerator(COMPACT), StoredPrompts(torch.randn(5, 6), torch.randn(5, 6))


def save_compact(folder: Path, **options: Any) -> None:
    generator, prompts = compact_parts()
    save_model(folder, generator, prompts, name="tiny-compact", **options)


def few_layers() -> GeneratorConfig:
    """The ``compact`` kind with few layers: every kind of layer once and an attention in the middle only.

    Converting takes as long as the layers are many.
    """
    networks = debug().generator
    return replace(networks, unet=replace(networks.unet, cross_attention=(False, False)))


def save_few_layers(folder: Path, config: GeneratorConfig | None = None) -> None:
    """A model of the ``compact`` kind, or of another one, with few layers, all of them at work."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        generator = OneStepGenerator(config or few_layers())
        initialise_from_scratch(generator)
        with torch.no_grad():
            for name, parameter in generator.named_parameters():
                if name.endswith("lora_B"):
                    parameter.normal_(std=0.02)
        positive, negative = fresh_prompts(4, generator.config.unet.context_channels)
    save_model(folder, generator, StoredPrompts(positive, negative), name="few", upsampling="bicubic")


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text
    return text


def edit_json(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text())
    content.update(fields)
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "(left out)"}))
