"""Models that the speed benchmarks restore with: ``tiny``, ``compact``, ``full``, or a model folder.

``full`` is the paper's size with random weights: it restores nothing, but costs what the release costs. Its LoRA
factors and modulations are as large as after training, so that folded and per-sample results can be told apart.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from s3diff.checkpoints.model_folder import LoadedModel, ModelDescription, StoredPrompts, load_model
from s3diff.checkpoints.registry import model_folder
from s3diff.networks.autoencoder import AutoencoderConfig
from s3diff.networks.degradation_conditioning import ConditioningConfig
from s3diff.networks.degradation_estimator import DegradationEstimatorConfig
from s3diff.networks.one_step_generator import GeneratorConfig, OneStepGenerator
from s3diff.networks.unet import UNetConfig

#: Tokens of a prompt, padded to the text encoder's maximum.
NUM_TOKENS = 77
TINY = GeneratorConfig(
    unet=UNetConfig(block_out_channels=(32, 64, 64, 64), num_heads=(2, 4, 4, 4), context_channels=32, lora_rank=4),
    autoencoder=AutoencoderConfig(block_out_channels=(32, 32, 64, 64), lora_rank=4),
    estimator=DegradationEstimatorConfig(stage_channels=(8, 16), hidden_channels=16),
    conditioning=ConditioningConfig(num_frequencies=8, hidden_channels=16, block_channels=8),
)
RANDOM = {"tiny": TINY, "full": GeneratorConfig()}


def latency_model(name: str) -> LoadedModel:
    """``tiny`` and ``full`` with random weights, the same ones every time; anything else is loaded.

    Raises:
        ModelError: no such model.
    """
    if name not in RANDOM:
        return load_model(model_folder(name))
    config = RANDOM[name]
    torch.manual_seed(0)
    generator = OneStepGenerator(config).eval().requires_grad_(False)
    _wake_lora(generator)
    width = config.unet.context_channels
    return LoadedModel(
        folder=Path(),
        description=ModelDescription(name=f"{name} (random weights)", generator=config),
        generator=generator,
        prompts=StoredPrompts(torch.randn(NUM_TOKENS, width), torch.randn(NUM_TOKENS, width)),
        tokenizer=None,
        text_encoder=None,
    )


def _wake_lora(generator: OneStepGenerator) -> None:
    """B starts at zero and M near it, which no trained model has."""
    for network in (generator.autoencoder.encoder, generator.unet):
        for layer in network.modulated_layers().values():
            layer.lora_B.normal_(std=0.02)
    for layer in generator.conditioning.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)


def random_text_encoder() -> nn.Module:
    """SD-Turbo's text encoder (OpenCLIP-H without its last layer) with random weights.

    The release runs it for both prompts of every picture.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        max_position_embeddings=NUM_TOKENS,
        hidden_act="gelu",
        projection_dim=512,
    )
    torch.manual_seed(0)
    return CLIPTextModel(config).eval().requires_grad_(False)
