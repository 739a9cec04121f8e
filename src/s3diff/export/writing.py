"""Write a model as one file for all sizes, or for one size, that runs without s3diff."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s3diff.checkpoints.model_folder import LoadedModel, StoredPrompts, load_model
from s3diff.checkpoints.registry import model_folder
from s3diff.errors import OptionError, OutputError
from s3diff.images.color_match import match_color
from s3diff.images.resampling import from_network_range, to_network_range
from s3diff.messages import reason_of
from s3diff.networks.graphs import EncodeGraph, PredictGraph, with_fixed_timestep
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.options import MAX_OUTPUT_PIXELS, METHOD_SCALE, ColorMatch, RestoreOptions, Upsampling, checked_size
from s3diff.restoration.runtimes import quiet, require_installed, traced, write_onnx, write_openvino
from s3diff.version import __version__

#: Degrees below 0 ask for the estimate.
ESTIMATE = -1.0


class PictureGraph(nn.Module):
    """Restore one opaque sRGB picture four times as large.

    Args:
        generator: float32, on the CPU.
        prompts: embeddings, constants of the graph.
        guidance: a constant of the graph; at 1 the negative prompt is left out.
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
        self.predict = PredictGraph(self.generator)
        self.upsampling, self.color_match, self.is_guided = upsampling, color_match, guidance != 1
        both = (prompts.positive, prompts.negative) if self.is_guided else (prompts.positive,)
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
        prediction = self.predict(latent, for_unet, self.context, self.guidance if self.is_guided else None)
        clean = generator.config.schedule.clean_latent(latent, prediction)
        decoded = _cut(from_network_range(generator.decode(clean, image)), height, width)
        return match_color(decoded, base, self.color_match).clamp(0, 1), used


def _cut(image: Tensor, height: int, width: int) -> Tensor:
    """Cut off the padding. A slice would tie the graph to sides that are padded, or to sides that are not."""
    rows, columns = (torch.arange(side, device=image.device) for side in (height, width))
    return image.index_select(-2, rows).index_select(-1, columns)


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


ExportFormat = Literal["onnx", "torch", "openvino"]
SUFFIXES: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}
#: Names of the graph's inputs and outputs.
INPUTS, OUTPUTS = ("low_quality", "degrees"), ("restored", "degrees_used")
#: (width, height) of the picture that a graph for all sizes is traced with; the sides differ, so that they stay apart.
_TRACED_SIZE = (27, 22)


def export_model(
    model: str | Path | LoadedModel,
    target: str | Path,
    form: ExportFormat | None = None,
    *,
    size: tuple[int, int] | None = None,
    half: bool = False,
    need_degrees: bool = False,
    options: RestoreOptions | None = None,
) -> list[Path]:
    """Write the method from the low-quality picture to the result, four times as large, as one graph.

    Its inputs are ``low_quality`` [1, 3, h, w] float32 RGB in [0, 1] and ``degrees`` [1, 2], blur and noise, below 0
    for the estimate (ONNX: may be left out); its outputs are ``restored`` [1, 3, 4 h, 4 w] in [0, 1] and
    ``degrees_used``.

    Args:
        model: a model's name or folder; or one that is loaded, in float32 on the CPU.
        target: a new file; its extension is the format's.
        form: None for the one of the extension.
        size: (width, height) of all low-quality pictures, at most 2 ** 24 pixels; None for any size, above 16 px a side
            where the model pads to 64 px.
        half: store the weights in float16; they are computed with in float32. Not for torch.
        need_degrees: in ONNX, ``degrees`` may not be left out; for runtimes that do not accept optional inputs at all,
            such as onnxruntime-web.
        options: guidance, colour matching and filter count, and are put into the graph.

    Returns:
        The files that were written.

    Raises:
        OptionError: another extension than the format's, a size that cannot be, or an option that the format or a graph
            does not have.
        OutputError: something is there already, or it cannot be written; nothing is left half written.
        MissingExtraError: the format's packages are not installed.
        ModelError: the model cannot be loaded or traced.
    """
    target = Path(target)
    form = _checked_format(target, form)
    if half and form == "torch":
        raise OptionError("half (--half) is for .onnx and .xml; leave it out for .pt2")
    if need_degrees and form != "onnx":
        raise OptionError(f"need_degrees (--need-degrees) is for .onnx; in {SUFFIXES[form]} degrees are always needed")
    size = None if size is None else _checked_size(size)
    if form != "torch":
        require_installed("openvino" if form == "openvino" else "onnxruntime", f"the format {form}")
    loaded = model if isinstance(model, LoadedModel) else load_model(model_folder(model))
    chosen = (options or RestoreOptions()).for_model(loaded.upsampling, loaded.guidance)
    _require_graph_options(chosen)
    assert chosen.upsampling is not None, "for_model fills it in"
    assert chosen.guidance is not None, "for_model fills it in"
    graph = PictureGraph(
        loaded.generator,
        loaded.prompts,
        upsampling=chosen.upsampling,
        guidance=chosen.guidance,
        color_match=chosen.color_match,
    )
    width, height = size or _TRACED_SIZE
    arguments = torch.full((1, 3, height, width), 0.5), torch.full((1, 2), ESTIMATE)
    any_side = torch.export.Dim.DYNAMIC
    shapes = (None, None) if size else ({2: any_side, 3: any_side}, None)
    program = traced(graph, arguments, shapes)
    defaults = {} if need_degrees else {"degrees": np.full((1, 2), ESTIMATE, np.float32)}
    return _written(program, target, form, _properties(loaded, chosen, size), defaults, half=half)


def _checked_format(target: Path, form: ExportFormat | None) -> ExportFormat:
    by_suffix = {suffix: each for each, suffix in SUFFIXES.items()}
    if form is not None and form not in get_args(ExportFormat):
        raise OptionError(f"format is {form!r}; give one of {', '.join(SUFFIXES)}")
    found = by_suffix.get(target.suffix.lower())
    if found is None or (form is not None and found != form):
        wanted = ", ".join(SUFFIXES.values()) if form is None else SUFFIXES[form]
        raise OptionError(f"the output is {target}; give a name that ends in {wanted}")
    for path in (target, target.with_suffix(".bin"), Path(f"{target}.data")):
        if os.path.lexists(path):
            raise OutputError(f"{path} exists and would be replaced; remove it, or choose a new name")
    return found


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    """Check the (width, height) of the low-quality pictures, before a model is loaded."""
    width, height = checked_size(size)
    if width * height * METHOD_SCALE**2 > MAX_OUTPUT_PIXELS:
        largest = MAX_OUTPUT_PIXELS // METHOD_SCALE**2
        raise OptionError(f"size is {width}x{height}; give a size (--size) of at most {largest} pixels")
    return width, height


def _require_graph_options(options: RestoreOptions) -> None:
    """Refuse options that are no part of a graph and differ from their defaults."""
    plain = RestoreOptions(guidance=options.guidance, color_match=options.color_match, upsampling=options.upsampling)
    for name in vars(plain):
        if getattr(options, name) != getattr(plain, name):
            raise OptionError(f"{name} is {getattr(options, name)!r}; an exported graph has only its default")


def _properties(model: LoadedModel, options: RestoreOptions, size: Sequence[int] | None) -> dict[str, str]:
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "s3diff": __version__,
        "scale": str(METHOD_SCALE),
        "size": "any" if size is None else f"{size[0]}x{size[1]}",
        "guidance": str(options.guidance),
        "color_match": options.color_match,
        "upsampling": str(options.upsampling),
        "licences": json.dumps(model.description.licences),
    }


def _written(
    program: torch.export.ExportedProgram,
    target: Path,
    form: ExportFormat,
    properties: dict[str, str],
    defaults: dict[str, np.ndarray],
    *,
    half: bool,
) -> list[Path]:
    """Write next to the target, then move: the file that names the others comes last."""
    names: Any = (INPUTS, OUTPUTS)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            path = scratch / f"{target.stem}{SUFFIXES[form]}"  # OpenVINO writes no .XML
            if form == "onnx":
                write_onnx(program, path, names, properties, defaults, half=half)
            elif form == "openvino":
                write_openvino(program, path, names, properties, half=half)
            else:
                with quiet():
                    torch.export.save(program, path, extra_files={"s3diff.json": json.dumps(properties)})
            if path.name != target.name:
                path = path.rename(scratch / target.name)
            made = sorted(scratch.iterdir(), key=lambda each: each == path)
            for each in made:
                os.replace(each, target.parent / each.name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({reason_of(error)}); choose another place") from error
    return [target.parent / each.name for each in made]
