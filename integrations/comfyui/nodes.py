"""Two nodes of ComfyUI's V3 schema: load a model of s3diff, and restore images with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management as devices
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io

from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.registry import NAMED_MODELS
from s3diff.errors import ModelError, OptionError

#: The folder of ComfyUI's models that holds folders of s3diff's, made by ``s3diff convert`` or ``s3diff train``.
FOLDER = "s3diff"
CATEGORY = "image/upscaling"
Model = io.Custom("S3DIFF_MODEL")
#: A dial at this value leaves the degree to the estimate.
ESTIMATE = -1.0


def model_places() -> dict[str, str]:
    """List the named models and the folders in ``models/s3diff``, each with what the Restorer takes."""
    places = {name: name for name in NAMED_MODELS}
    for root in folder_paths.get_folder_paths(FOLDER):
        for config in sorted(Path(root).glob("*/config.json")):
            places.setdefault(config.parent.name, str(config.parent))
    return places


class LoadS3Diff(io.ComfyNode):
    """Load a model; it waits on the device for models that are not in use."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See ComfyUI."""
        return io.Schema(
            node_id="S3DiffLoad",
            display_name="Load S3Diff Model",
            category=CATEGORY,
            description="compact comes with s3diff; s3diff is the authors' release, 2.6 GB, fetched on first use.",
            inputs=[
                io.Combo.Input("model", options=list(model_places())),
                io.Combo.Input("precision", options=["auto", "float32", "bfloat16", "float16"], default="auto"),
                io.Combo.Input("backend", options=["torch", "openvino", "onnxruntime", "auto"], default="torch"),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, precision: Any, backend: Any) -> io.NodeOutput:
        """Give a Restorer."""
        places = model_places()
        if model not in places:
            raise ModelError(f"the model {model!r} is not there any more; choose one of {', '.join(places)}")
        device = devices.get_torch_device() if backend in ("torch", "auto") else torch.device("cpu")
        restorer = Restorer.from_pretrained(
            places[model], device=device, precision=precision, backend=backend, remark=print
        )
        return io.NodeOutput(restorer.to(offload_device(restorer)))


class RestoreWithS3Diff(io.ComfyNode):
    """Restore images; each by itself, with degrees of its own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See ComfyUI."""
        dial = {"default": ESTIMATE, "min": ESTIMATE, "max": 1.0, "step": 0.05}
        return io.Schema(
            node_id="S3DiffRestore",
            display_name="Restore with S3Diff",
            category=CATEGORY,
            inputs=[
                Model.Input("model"),
                io.Image.Input("image"),
                io.Float.Input("scale", default=4.0, min=0.25, max=8.0, step=0.25),
                io.Float.Input("blur", tooltip="How blurred the image is, 0 to 1; -1 estimates it.", **dial),
                io.Float.Input("noise", tooltip="How noisy the image is, 0 to 1; -1 estimates it.", **dial),
                io.Float.Input("strength", default=1.0, min=0.0, max=1.0, step=0.05),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="0 takes the model's own; 1 is fastest.",
                ),
                io.Combo.Input("color_match", options=["wavelet", "adain", "none"], default="wavelet"),
                io.Mask.Input("alpha", optional=True, tooltip="Enlarged with the image, such as LoadImage's mask."),
            ],
            outputs=[
                io.Image.Output(display_name="image"),
                io.Mask.Output(display_name="alpha"),
                io.Float.Output(display_name="blur"),
                io.Float.Output(display_name="noise"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Restorer,
        image: torch.Tensor,
        scale: float,
        blur: float,
        noise: float,
        strength: float,
        guidance: float,
        color_match: Any,
        alpha: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Restore.

        Args:
            model: from :class:`LoadS3Diff`.
            image: [B, H, W, 3 or 4] in [0, 1]; an empty batch gives empty ones, and the dials as they are.
            scale: of the result.
            blur: in [0, 1], or -1.
            noise: in [0, 1], or -1.
            strength: of the restoration.
            guidance: of the positive prompt; 0 for the model's own.
            color_match: how colours are taken from the input.
            alpha: [B or 1, H, W] in [0, 1]; one serves all images.
        """
        options = RestoreOptions(
            scale=scale,
            blur=None if blur < 0 else blur,
            noise=None if noise < 0 else noise,
            strength=strength,
            guidance=guidance or None,
            color_match=color_match,
        )
        if alpha is None:
            # A mask is 1 where the picture is transparent.
            alpha = 1 - image[..., 3] if image.shape[3] == 4 else torch.zeros(len(image), *image.shape[1:3])
        alpha = alpha.reshape(-1, 1, *alpha.shape[-2:]).float().cpu()
        if len(alpha) not in (1, len(image)):
            raise OptionError(
                f"alpha holds {len(alpha)} masks for {len(image)} images; give {len(image)}, or one for all"
            )
        if len(image) == 0:
            width, height = options.output_size(image.shape[2], image.shape[1])
            return io.NodeOutput(torch.zeros(0, height, width, 3), torch.zeros(0, height, width), blur, noise)
        bar, made, degrees = comfy.utils.ProgressBar(len(image)), [], []
        if model.backend == "torch":
            device = devices.get_torch_device()
            devices.free_memory(size_in_bytes(model), device)
            model.to(device)
        try:
            with model.watched(devices.throw_exception_if_processing_interrupted):
                for index, one in enumerate(image):
                    devices.throw_exception_if_processing_interrupted()
                    restored = model.restore_tensor(one[None, ..., :3], options, clamp=True, channels_last=True)
                    made.append(restored.images.float().cpu())
                    degrees.append(restored.degrees.cpu())
                    bar.update_absolute(index + 1, len(image))
        finally:
            model.to(offload_device(model))
        result = torch.cat(made)
        enlarged = torch.nn.functional.interpolate(alpha, result.shape[1:3], mode="bicubic").expand(
            len(image), -1, -1, -1
        )
        means = torch.cat(degrees).mean(dim=0).tolist()
        return io.NodeOutput(result, enlarged[:, 0].clamp(0, 1), *means)


class S3DiffExtension(ComfyExtension):
    """What ComfyUI asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """List the nodes."""
        return [LoadS3Diff, RestoreWithS3Diff]


async def comfy_entrypoint() -> S3DiffExtension:
    """Register the model folder, and give the extension."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return S3DiffExtension()


def offload_device(model: Restorer) -> torch.device:
    """Choose where a model waits; another backend than torch stays on the CPU."""
    return devices.unet_offload_device() if model.backend == "torch" else model.device


def size_in_bytes(model: Restorer) -> int:
    """Add up a model's weights."""
    return sum(each.numel() * each.element_size() for each in model.generator.parameters())
