"""Convert between the authors' files and our model folder, both ways."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from s3diff.checkpoints.assembly import assemble
from s3diff.checkpoints.model_folder import (
    LoadedModel,
    ModelDescription,
    StoredPrompts,
    check_output_folder,
    load_model,
    save_model,
)
from s3diff.checkpoints.official_pickle import (
    official_names,
    read_official_estimator,
    read_official_pickle,
    require_official_architecture,
    write_official_estimator,
    write_official_pickle,
)
from s3diff.checkpoints.sd_turbo import read_sd_turbo
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.networks.prompts import encode_prompts

#: The release's two prompts.
POSITIVE_PROMPT = "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural lighting."
NEGATIVE_PROMPT = "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, oversmooth"

#: Parts of a converted model with their licences.
RELEASE_LICENCES = (
    "UNet, autoencoder and text encoder: the licence of the base model; SD-Turbo's is Stability AI's "
    "(https://stability.ai/license), which does not allow every use",
    "LoRA, UNet conv_in and conditioning (s3diff.pkl): the S3Diff authors, Apache-2.0",
    "Degradation estimator (de_net.pth): the S3Diff authors after MM-RealSR, Apache-2.0",
)


def convert(
    base_folder: Path,
    s3diff_pickle: Path,
    estimator_file: Path,
    output_folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    name: str = "s3diff",
    with_text_encoder: bool = True,
) -> ModelDescription:
    """Make a model folder from the authors' files.

    Args:
        base_folder: SD-Turbo in the layout of diffusers.
        s3diff_pickle: ``s3diff.pkl``.
        estimator_file: ``de_net.pth``.
        output_folder: where to; see :func:`save_model`.
        dtype: ``torch.float16`` halves the base model on disk; the tensors that the authors trained stay float32, and
            :func:`to_official` gives them back bit for bit.
        with_text_encoder: copy tokenizer and text encoder, so that other prompts than the two stored can be used.

    Returns:
        The content of ``config.json``.

    Raises:
        ModelError: a file is missing, damaged, unsafe or does not fit; names are given.
        OutputError: ``output_folder`` is something else than a model folder, or cannot be written.
    """
    check_output_folder(output_folder)
    base = read_sd_turbo(base_folder)
    official = read_official_pickle(s3diff_pickle, base.config)
    estimator = read_official_estimator(estimator_file, official.config.estimator)
    texts = [POSITIVE_PROMPT, NEGATIVE_PROMPT]
    positive, negative = encode_prompts(base.tokenizer, base.text_encoder, texts).unbind(0)
    state = {
        **base.state,
        **official.state,
        **{f"estimator.{name}": tensor for name, tensor in estimator.items()},
    }
    generator = assemble(official.config, state, f"{base_folder} with {s3diff_pickle}")
    return save_model(
        output_folder,
        generator,
        StoredPrompts(positive, negative, *texts),
        name=name,
        upsampling="bilinear",
        licences=RELEASE_LICENCES,
        dtype=dtype,
        float32_names=frozenset(official_names(generator)) | {f"estimator.{name}" for name in estimator},
        tokenizer=base.tokenizer if with_text_encoder else None,
        text_encoder=base.text_encoder if with_text_encoder else None,
    )


def to_official(
    model_folder: Path, output_pickle: Path, estimator_output: Path | None = None, *, base_folder: Path
) -> LoadedModel:
    """Write a model folder's trained part as ``s3diff.pkl``, and its estimator as ``de_net.pth`` if wanted.

    Args:
        model_folder: a converted model, or one trained on SD-Turbo.
        output_pickle: where ``s3diff.pkl`` goes.
        estimator_output: where ``de_net.pth`` goes; None for not at all.
        base_folder: SD-Turbo in the layout of diffusers, which the pickle's reader will add it to.

    Returns:
        The model that was read.

    Raises:
        ModelError: no model folder, a model that the official layout does not describe, or one of which something was
            trained that the pickle cannot hold: it is named, and nothing is written.
        OptionError: both outputs are one file.
        OutputError: a place is there already, lies in the model folder, or cannot be written.
    """
    _require_places(model_folder, [output_pickle, *([estimator_output] if estimator_output else [])])
    model = load_model(model_folder)
    require_official_architecture(model.config)
    lost = _lost_in_official(model, read_sd_turbo(base_folder).state)
    if lost:
        shown = ", ".join(lost[:4]) + (f" and {len(lost) - 4} more" if len(lost) > 4 else "")
        raise ModelError(
            f"{model_folder} differs from {base_folder} in what an s3diff.pkl cannot hold: {shown}; keep the model "
            "folder, give the base that it was trained on, or train with the recipe tune_lora"
        )
    write_official_pickle(model.generator, output_pickle)
    if estimator_output is not None:
        write_official_estimator(model.generator.estimator, estimator_output)
    return model


def _require_places(model: Path, outputs: list[Path]) -> None:
    """Check that each output is a new path outside the input model, in an existing folder."""
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise OptionError(f"{outputs[0]} cannot take both files; give --estimator another name than OUT")
    for path in outputs:
        if model.resolve() in (path.resolve(), *path.resolve().parents):
            raise OutputError(f"{path} would change the model folder {model}; choose another place")
        if not path.parent.is_dir():
            raise OutputError(f"{path} cannot be written: {path.parent} is no folder; make it first")
        if os.path.lexists(path):
            raise OutputError(f"{path} exists and would be replaced; remove it, or choose a new name")


def _lost_in_official(model: LoadedModel, base: Mapping[str, Tensor]) -> list[str]:
    held = official_names(model.generator)
    lost = [
        name
        for name, tensor in model.generator.state_dict().items()
        if name not in held and not name.startswith("estimator.") and not _is_same(tensor, base.get(name))
    ]
    texts = {"positive": POSITIVE_PROMPT, "negative": NEGATIVE_PROMPT}
    return lost + [
        f"the {name} prompt" for name, text in texts.items() if getattr(model.prompts, f"{name}_text") != text
    ]


def _is_same(tensor: Tensor, base: Tensor | None) -> bool:
    """Check whether a tensor is the base model's, as it is or stored in float16 by a model folder."""
    if base is None or base.shape != tensor.shape:
        return False
    base = base.to(tensor.dtype)
    return torch.equal(tensor, base) or torch.equal(tensor, base.to(torch.float16).to(tensor.dtype))
