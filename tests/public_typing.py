"""What a user writes, for ``mypy --strict``; never run. An ignored error that mypy does not find is an error itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

import s3diff
from s3diff import degradation, evaluation, networks
from s3diff.export.writing import export_model
from s3diff.integrations.diffusers import S3DiffPipeline
from s3diff.restoration.video import VideoOptions, restore_video


def one(path: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[float, float]:
    options = s3diff.RestoreOptions(scale=2, noise="+0.1")
    restored: s3diff.Restored = s3diff.restore(path, model="compact", scale=2, tile=512)
    restorer = s3diff.Restorer.from_pretrained("compact", device="cpu", precision="float32").to("cpu")
    again = restorer.restore(pixels, options, guidance=1.0, on_stage=lambda name, tensor: tensor)
    notes: tuple[str, ...] = again.save(path.with_suffix(".png"))
    degrees: s3diff.Degrees = restorer.estimate(path)
    print(restored.array.shape, notes, degrees.blur)
    return again.degrees


def tensors(images: torch.Tensor) -> torch.Tensor:
    restorer = s3diff.Restorer.from_pretrained()
    made: s3diff.RestoredTensors = restorer.restore_tensor(images, differentiable=True, lora_scale=0.5)
    return made.images


def batch(paths: Iterable[Path]) -> list[str]:
    restorer = s3diff.Restorer.from_pretrained()
    raised: list[s3diff.Restored] = restorer.restore_batch(paths, scale=2)
    returned = restorer.restore_batch(paths, on_error="return")
    return [str(each) if isinstance(each, s3diff.S3DiffError) else str(each.size) for each in [*raised, *returned]]


def failure(path: Path) -> str:
    try:
        return s3diff.restore(path).degrees.noise.hex()
    except (s3diff.DownloadError, s3diff.MissingExtraError, s3diff.ModelError) as error:
        return f"{s3diff.__version__}: {error}"
    except (s3diff.OptionError, s3diff.OutputError, s3diff.PictureError) as error:
        return str(error)


def video(restorer: s3diff.Restorer, source: Path) -> tuple[int, int]:
    return restore_video(restorer, source, "out.mkv", video_options=VideoOptions(codec="h265")).size


def doors(photo: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> list[Path]:
    S3DiffPipeline.from_pretrained("compact").to("cpu")(photo, guidance_scale=1.07, output_type="pil")
    return export_model("compact", Path("compact.onnx"), size=(64, 48), half=True)


def degraded(truth: torch.Tensor) -> torch.Tensor:
    settings: degradation.DegradationSettings = degradation.PRESETS["s3diff"]
    stage: degradation.StageSettings = settings.first
    drawn: degradation.DegradationDraw = degradation.draw(settings, 1, 64, 64, 4, torch.Generator())
    print(stage.blur_sigma_px)
    one: torch.Tensor = degradation.Degrade("s3diff", scale=4)(truth, seed=1)
    return torch.cat([one[None], degradation.apply(truth[None], drawn)])


def largest(result: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return (result - truth).abs().flatten(1).amax(dim=1)


def measured() -> tuple[str, list[str]]:
    measure = evaluation.Measure("largest", "Largest", "lower", "pair", 1, "in 255ths", lambda device: largest)
    evaluation.register_measure(measure)
    protocol = evaluation.Protocol(name="mine", version=1, metrics=("largest",), source="this file")
    evaluation.register_protocol(protocol)
    run: Callable[..., evaluation.Evaluation] = evaluation.evaluate
    methods: list[evaluation.Method] = []
    print(run, methods)
    return protocol.title, [*evaluation.MEASURES, *evaluation.PROTOCOLS]


def built() -> networks.OneStepGenerator:
    config = networks.GeneratorConfig(
        unet=networks.UNetConfig(),
        autoencoder=networks.AutoencoderConfig(),
        estimator=networks.DegradationEstimatorConfig(),
        conditioning=networks.ConditioningConfig(),
        schedule=networks.NoiseSchedule(),
    )
    generator = networks.OneStepGenerator(config)
    unet: networks.UNet = generator.unet
    autoencoder: networks.Autoencoder = generator.autoencoder
    parts: tuple[networks.DegradationEstimator, networks.DegradationConditioning] = (
        generator.estimator,
        generator.conditioning,
    )
    print(unet, autoencoder, parts)
    return generator


def misspelt(path: Path) -> None:
    s3diff.restore(path, scal=2)  # type: ignore[call-arg]
    s3diff.restore(path, color_match="wavelets")  # type: ignore[arg-type]
    s3diff.Restorer.from_pretrained().restore(path, strenght=1.0)  # type: ignore[call-arg]
    s3diff.Restorer.from_pretrained().restore(5)  # type: ignore[arg-type]
