"""Call a model as a diffusers pipeline, and write it in diffusers' layout.

    pipe = S3DiffPipeline.from_pretrained("s3diff")
    pipe(photo, guidance_scale=1.07).images[0].save("restored.png")

diffusers is imported for its output's type and for its own classes' files; what restores is :class:`s3diff.Restorer`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from s3diff.atomic_write import whole_folder
from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.registry import DEFAULT_MODEL
from s3diff.errors import MissingExtraError, ModelError, OptionError, OutputError
from s3diff.images.picture import to_tensor
from s3diff.messages import install_command
from s3diff.networks.modulated_lora import ModulatedNetwork, fold
from s3diff.networks.one_step_generator import GeneratorConfig
from s3diff.option_keywords import RestoreChanges
from s3diff.options import Precision, RestoreOptions
from s3diff.picture_tensors import checked_degrees, checked_pictures
from s3diff.restoration.restorer import Restorer, Source
from s3diff.restoration.stage_events import OnStage
from s3diff.version import __version__

if TYPE_CHECKING:
    from typing_extensions import Self

OutputType = Literal["pil", "np", "pt", "latent"]
#: Called with (pipeline, 0, timestep, {"latents": x0}); the latents of the mapping that it returns are decoded.
StepEnd = Callable[["S3DiffPipeline", int, int, dict[str, Any]], Mapping[str, Any] | None]

_PRECISIONS: dict[Any, Precision] = {
    None: "auto",
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
#: Folder inside a saved pipeline that holds the model as :class:`Restorer` takes it.
_OWN_FOLDER = "s3diff"
_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class S3DiffPipeline:
    """Wrap a :class:`Restorer` in the call of a diffusers pipeline; results are the restorer's to the digit.

    Args:
        restorer: the model.
    """

    def __init__(self, restorer: Restorer) -> None:
        require_diffusers()
        self.restorer = restorer

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "auto",
    ) -> Self:
        """Load a model.

        Args:
            model: a name or a folder as :meth:`Restorer.from_pretrained` takes it, or what :meth:`save_pretrained`
                wrote.
            torch_dtype: ``torch.float32``, ``torch.bfloat16`` or ``torch.float16``; None for the device's default.
            device: see :class:`Restorer`.

        Raises:
            MissingExtraError: diffusers is not installed.
            ModelError, DownloadError, OptionError: see :meth:`Restorer.from_pretrained`.
        """
        require_diffusers()
        if torch_dtype not in _PRECISIONS:
            raise OptionError(f"torch_dtype is {torch_dtype}; give torch.float32, torch.bfloat16 or torch.float16")
        own = Path(model) / _OWN_FOLDER
        folder = own if own.is_dir() else model
        return cls(Restorer.from_pretrained(folder, device=device, precision=_PRECISIONS[torch_dtype]))

    def to(self, device: str | torch.device) -> Self:
        """Move the networks; return the pipeline."""
        self.restorer.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """The networks' device."""
        return self.restorer.device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's number format."""
        return self.restorer.dtype

    def __call__(
        self,
        image: Source | Tensor | Sequence[Source],
        prompt: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        callback_on_step_end: StepEnd | None = None,
        options: RestoreOptions | None = None,
    ) -> Any:
        """Restore pictures.

        Args:
            image: what :meth:`Restorer.restore` takes, a list of it, or a tensor as :meth:`Restorer.restore_tensor`
                takes it: [B, 3, H, W] or [B, H, W, 3], uint8 or float in [0, 1].
            prompt: the positive prompt, for models with a text encoder; None for that of the options.
            negative_prompt: the negative prompt; None for that of the options.
            guidance_scale: weight of the positive against the negative prompt; 1 leaves the negative one out; None for
                that of the options.
            generator: its initial seed draws a sample of the latent; None for the latent of the options.
            output_type: ``pil``; ``np``, [B, H, W, 3] float32 in [0, 1]; ``pt``, [B, 3, H, W] float in [0, 1]; or
                ``latent``, the clean latents, of a tensor.
            callback_on_step_end: see :data:`StepEnd`.
            options: options of :class:`s3diff.RestoreOptions`; its defaults are the model's own.

        Returns:
            diffusers' ``ImagePipelineOutput``, whose ``images`` are the results.

        Raises:
            PictureError, OptionError, ModelError: see :meth:`Restorer.restore`.
        """
        from diffusers import ImagePipelineOutput

        if output_type not in _OUTPUT_TYPES:
            raise OptionError(f"output_type is {output_type!r}; give one of {', '.join(_OUTPUT_TYPES)}")
        changes: RestoreChanges = {}
        if guidance_scale is not None:
            changes["guidance"] = guidance_scale
        if prompt is not None:
            changes["positive_prompt"] = prompt
        if negative_prompt is not None:
            changes["negative_prompt"] = negative_prompt
        if generator is not None:
            if not isinstance(generator, torch.Generator):
                raise OptionError(f"generator is a {type(generator).__name__}; give one torch.Generator, or nothing")
            changes["latent"], changes["seed"] = "sample", generator.initial_seed() % 2**63
        resolved = self.restorer.resolved(options, changes)
        on_stage = None if callback_on_step_end is None else self._on_stage(callback_on_step_end)
        if isinstance(image, Tensor):
            # Of one layout and in floats, whatever was given: the output type decides on the result's.
            colors, dtype, _ = checked_pictures(image)
            given = colors.to(dtype) if dtype.is_floating_point else colors
            made = self.restorer.restore_tensor(given, resolved, channels_last=False, on_stage=on_stage)
            images = made.latent if output_type == "latent" else _of_tensors(made.images, output_type)
            return ImagePipelineOutput(images=images)
        if output_type == "latent":
            raise OptionError("output_type latent is for tensors; give a tensor [B, 3, H, W]")
        pictures: list[Any] = list(image) if isinstance(image, list | tuple) else [image]
        if not pictures:
            raise OptionError("image is an empty list; give one or more pictures")
        results = [self.restorer.restore(each, resolved, on_stage=on_stage) for each in pictures]
        if output_type == "pil":
            return ImagePipelineOutput(images=[result.image for result in results])
        if len({result.size for result in results}) > 1:
            raise OptionError(f"results of several sizes are no {output_type} array; give output_type pil")
        together = torch.cat([to_tensor(result.picture) for result in results])
        return ImagePipelineOutput(images=_of_tensors(together, output_type))

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, degrees: tuple[float, float] = (0.5, 0.5)
    ) -> None:
        """Write the model in diffusers' layout, whole or not at all; :meth:`from_pretrained` reads it.

        ``unet`` and ``vae`` are folded for one pair of degrees, so that diffusers' own classes load them; ``s3diff``
        holds the model as it is.

        Args:
            save_directory: a new folder.
            degrees: blur and noise in [0, 1].

        Raises:
            ModelError: diffusers has no classes for the networks, such as ``compact``'s.
            OutputError: the folder exists already, or cannot be written.
            OptionError: the degrees are no pair in [0, 1].
        """
        from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

        pair = checked_degrees(degrees, 1)
        model = load_model(self.restorer.model.folder)
        config, generator = model.config, model.generator
        _require_sd_layout(config)
        folder = Path(save_directory)
        if os.path.lexists(folder):
            raise OutputError(f"{folder} exists and would be replaced; remove it, or choose a new name")
        with torch.no_grad():
            for_encoder, for_unet = generator.conditioning(pair)
        unet: Any = UNet2DConditionModel(**_unet_fields(config))
        unet.load_state_dict(_folded_state(generator.unet, generator.unet, "", for_unet))
        vae: Any = AutoencoderKL(**_vae_fields(config))
        autoencoder = generator.autoencoder
        vae.load_state_dict(_folded_state(autoencoder, autoencoder.encoder, "encoder.", for_encoder))
        schedule = config.schedule
        scheduler: Any = DDPMScheduler(
            num_train_timesteps=schedule.num_train_timesteps,
            beta_start=schedule.beta_start,
            beta_end=schedule.beta_end,
            beta_schedule=schedule.beta_schedule,
            prediction_type=schedule.prediction_type,
            clip_sample=False,
            timestep_spacing="trailing",
        )
        index: dict[str, Any] = {"_class_name": type(self).__name__, "_s3diff_version": __version__}
        index |= {"degrees": pair[0].tolist()}
        with whole_folder(folder) as temporary:
            for name, component in (("unet", unet), ("vae", vae), ("scheduler", scheduler)):
                component.save_pretrained(temporary / name)
                index[name] = ["diffusers", type(component).__name__]
            for name, source, kind in (
                ("tokenizer", model.tokenizer, "CLIPTokenizer"),
                ("text_encoder", model.text_encoder, "CLIPTextModel"),
            ):
                if source is not None:
                    shutil.copytree(source, temporary / name)
                    index[name] = ["transformers", kind]
            shutil.copytree(model.folder, temporary / _OWN_FOLDER)
            (temporary / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")

    def _on_stage(self, callback: StepEnd) -> OnStage:
        timestep = self.restorer.config.schedule.timestep

        def look(name: str, tensor: Tensor) -> Tensor | None:
            if name != "clean":
                return None
            changed = callback(self, 0, timestep, {"latents": tensor})
            if changed is not None and not isinstance(changed, Mapping):
                given = type(changed).__name__
                raise OptionError(f"callback_on_step_end returned a {given}; give {{'latents': tensor}}, or nothing")
            return None if changed is None else changed.get("latents")

        return look


def require_diffusers() -> None:
    """Require that diffusers is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if find_spec("diffusers") is None:
        raise MissingExtraError(f"the pipeline needs diffusers: {install_command('diffusers')}")


def _of_tensors(images: Tensor, output_type: str) -> Any:
    """Convert [B, 3, H, W] in [0, 1] to a pipeline's output type."""
    if output_type == "pt":
        return images
    arrays = images.detach().cpu().permute(0, 2, 3, 1).float().numpy()
    if output_type == "np":
        return arrays
    from s3diff.images.files.pillow_pictures import to_pil
    from s3diff.images.picture import from_array

    return [to_pil(from_array((array * 255).round().astype("uint8"))) for array in arrays]


def _folded_state(whole: nn.Module, network: ModulatedNetwork, prefix: str, matrices: Tensor) -> dict[str, Tensor]:
    """Return the state of ``whole`` without LoRA, with ``network`` at ``prefix`` folded for these matrices."""
    folded = {f"{prefix}{name}": tensor for name, tensor in fold(network.lora_weights(), matrices).items()}
    state = {name: tensor for name, tensor in whole.state_dict().items() if not name.endswith((".lora_A", ".lora_B"))}
    return {**state, **folded}


def _require_sd_layout(config: GeneratorConfig) -> None:
    unet, autoencoder = config.unet, config.autoencoder
    faults = [
        reason
        for wrong, reason in (
            (unet.norm != "group" or autoencoder.norm != "group", "no group norm"),
            (not unet.self_attention or not autoencoder.attention, "no self-attention"),
            (unet.upsample != "nearest" or autoencoder.upsample != "nearest", "another upsampling"),
            (autoencoder.pixel_unshuffle != 1 or autoencoder.pixel_shuffle != 1, "pixels in channels"),
            (autoencoder.decoder_channels is not None, "a decoder of other widths"),
            (autoencoder.residual, "a decoder that adds its input"),
        )
        if wrong
    ]
    if faults:
        raise ModelError(
            f"diffusers' classes do not describe these networks ({', '.join(faults)}); only models on SD-Turbo can be "
            "written in its layout"
        )


def _unet_fields(config: GeneratorConfig) -> dict[str, Any]:
    unet = config.unet
    return {
        "in_channels": unet.latent_channels,
        "out_channels": unet.latent_channels,
        "block_out_channels": unet.block_out_channels,
        "down_block_types": tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in unet.cross_attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in unet.cross_attention[::-1]),
        "attention_head_dim": unet.num_heads,
        "layers_per_block": unet.layers_per_block,
        "cross_attention_dim": unet.context_channels,
        "norm_num_groups": unet.norm_num_groups,
        "norm_eps": unet.norm_eps,
        "use_linear_projection": True,
    }


def _vae_fields(config: GeneratorConfig) -> dict[str, Any]:
    autoencoder = config.autoencoder
    num_blocks = len(autoencoder.block_out_channels)
    return {
        "latent_channels": autoencoder.latent_channels,
        "block_out_channels": autoencoder.block_out_channels,
        "down_block_types": ("DownEncoderBlock2D",) * num_blocks,
        "up_block_types": ("UpDecoderBlock2D",) * num_blocks,
        "layers_per_block": autoencoder.layers_per_block,
        "norm_num_groups": autoencoder.norm_num_groups,
        "scaling_factor": autoencoder.scaling_factor,
    }
