"""Hold a model's networks on a device, with folded copies, encoded prompts and hooks."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from s3diff.checkpoints.assembly import load_tiny_decoder
from s3diff.checkpoints.model_folder import LoadedModel
from s3diff.errors import OptionError
from s3diff.networks.modulated_lora import Adaptation, FoldedInTurn, FoldedNetwork, LoraWeights
from s3diff.networks.one_step_generator import dtype_of
from s3diff.networks.prompts import encode_prompts
from s3diff.networks.tiny_decoder import TinyDecoder, decodes_latents_of
from s3diff.option_keywords import RestoreChanges
from s3diff.options import Backend, Precision, RestoreOptions
from s3diff.restoration.backends import device_for, fastest_backend
from s3diff.restoration.device import autoencoder_dtypes, choose_acceleration, choose_dtype, compile_network, turn_of
from s3diff.restoration.runtime_stages import RuntimeStages
from s3diff.restoration.sizes import Sizes
from s3diff.restoration.tile_plan import TilePlan, plan_tiles

if TYPE_CHECKING:
    from typing_extensions import Self

PromptName = Literal["positive_prompt", "negative_prompt"]
PROMPTS: tuple[PromptName, ...] = get_args(PromptName)


class DeviceModel:
    """Hold a model on a device.

    Args:
        model: from :func:`s3diff.checkpoints.model_folder.load_model`; moved to the device.
        device: ``auto`` (CUDA, MPS, CPU in this order) or a torch device.
        precision: ``auto`` (float32; bfloat16 where that is both fast and exact, see
            :func:`s3diff.restoration.device.choose_dtype`), ``float32``, ``float16`` or ``bfloat16``. They are the
            UNet's; see :func:`s3diff.restoration.device.autoencoder_dtypes` for the autoencoder's.
        exclusive: use and change the model's own networks instead of a copy, which saves their memory.
        fast: compile the networks, on CUDA with recorded graphs, where the machine can; see ``acceleration``. The first
            picture of every size takes minutes, and results need not be the same to the bit again.
        remark: called with one line when the compiler fails after all, a backend's graphs are made, or kept work is
            dropped; None to warn.
        backend: the runtime of the networks: ``torch``; ``openvino`` or ``onnxruntime``, the extras of these names, on
            the CPU, for models such as ``compact`` whose pixels depend only on their surroundings; ``auto`` for
            OpenVINO where it is installed and faster, which is measured once on each machine.

    Raises:
        OptionError: the device is not on this machine, the precision is unknown, or the backend cannot run
            the model like this.
        MissingExtraError: the backend is not installed.
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        exclusive: bool = False,
        fast: bool = False,
        remark: Callable[[str], None] | None = None,
        backend: Backend = "torch",
    ) -> None:
        self.model, self.config, self.upsampling = model, model.config, model.upsampling
        chosen = device_for(backend, device, fast=fast)
        if backend == "onnxruntime" and precision == "auto":
            precision = "float32"
        self.dtype = choose_dtype(precision, chosen, model.config.schedule)
        self.generator = model.generator if exclusive else copy.deepcopy(model.generator)
        self.generator.eval().requires_grad_(False)
        self._fast, self.remark = fast, remark or warnings.warn
        self._encoded_prompts: dict[str, Tensor] = {}  # on the CPU, since the model may move
        #: Held while the networks move, and by those who use them without waiting for their turn.
        self.placed = threading.Lock()
        self._lora: list[dict[str, LoraWeights]] = [{}, {}]
        #: The stages where another runtime than torch computes them.
        self.runtime: RuntimeStages | None = None
        if backend == "auto":
            backend = fastest_backend(type(self), model, chosen, self.dtype, fast=fast, remark=self.remark)
        if backend != "torch":
            self.runtime = RuntimeStages(model, self.generator, backend, self.dtype, self.remark)
        self._place(chosen)

    def to(self, device: str | torch.device) -> Self:
        """Move the model to another device after the current restoration; keep the number format; return the model.

        Raises:
            OptionError: the device is not on this machine, or the backend does not run there.
        """
        chosen = device_for(self.backend, device)
        with self.turn(), self.placed:
            if chosen != self.device:
                self._place(chosen)
        return self

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other restoration runs on the model's device, and occupy the device."""
        while True:
            device = self.device
            with turn_of(device):
                if device == self.device:
                    yield
                    return
            # Another thread has moved the model in the meantime: wait for the new device.

    def plan_tiles(self, sizes: Sizes, options: RestoreOptions, num_pictures: int = 1) -> TilePlan:
        """Choose the tiles of pictures of one size when it is the model's turn: then all memory is free that can be."""
        width, height = sizes.padded(self.config.pad_multiple)
        with self.turn():
            return plan_tiles(self.config, height, width, options, self.device, self.dtype, num_pictures)

    def _place(self, device: torch.device) -> None:
        """Move the networks to a device, in its fast memory layout, and make the copies that are folded."""
        generator, self.device = self.generator, device
        self._tiny_decoder: TinyDecoder | None = None
        #: The accelerations that are switched on for this device, with the reasons.
        self.acceleration = choose_acceleration(device, self.dtype, fast=self._fast)
        if self.runtime is not None:
            return
        layout = torch.channels_last if self.acceleration.channels_last else torch.contiguous_format
        generator.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        modulated = generator.autoencoder.encoder, generator.unet
        # Folding starts from float32 weights, whatever the networks compute in: these tensors stay as they are when
        # the modules get smaller ones.
        self._lora = [
            network.lora_weights()
            if dtype_of(network) == torch.float32
            else {name: layer.moved(device, layout) for name, layer in weights.items()}
            for network, weights in zip(modulated, self._lora, strict=True)
        ]
        generator.unet.to(self.dtype)
        decoder = generator.autoencoder.decoder
        encoder_dtype, decoder_dtype = autoencoder_dtypes(self.dtype, self.config.schedule)
        generator.autoencoder.to(encoder_dtype)
        decoder.to(decoder_dtype)
        self._encoder = FoldedNetwork(generator.autoencoder.encoder, self._lora[0])
        self._unet = FoldedNetwork(generator.unet, self._lora[1])
        self._unet.network.fix_timestep(self.config.schedule.timestep)
        vars(decoder).pop("forward", None)  # compiled for another device
        if self.acceleration.compiled:
            for compiled in (self._encoder.network, self._unet.network, decoder):
                compile_network(compiled, device, self.remark)

    @property
    def precision(self) -> str:
        """The networks' number format, such as ``float32``."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def backend(self) -> Backend:
        """The runtime of the networks: ``torch``, ``openvino`` or ``onnxruntime``."""
        return "torch" if self.runtime is None else self.runtime.runtime

    @property
    def runs_on(self) -> str:
        """The kind of device, and the backend unless it is torch: ``cpu``, ``cpu with openvino``."""
        return self.device.type if self.runtime is None else f"{self.device.type} with {self.backend}"

    def resolved(self, options: RestoreOptions | None, changes: RestoreChanges | None = None) -> RestoreOptions:
        """Fill in the defaults for None, the changed options, and the model's enlarging filter and guidance.

        Raises:
            OptionError: the argument has another type, or a changed value is not allowed or of no use to the model.
            TypeError: a change that is no option.
        """
        options = RestoreOptions() if options is None else options
        if not isinstance(options, RestoreOptions):
            raise OptionError(f"options is a {type(options).__name__}; give a RestoreOptions")
        if changes:
            options = replace(options, **changes)
        if options.decoder == "tiny" and not decodes_latents_of(self.config.autoencoder):
            raise OptionError(
                f"decoder is 'tiny', which decodes Stable Diffusion's latents; {self.model.name} has others: "
                "give 'model'"
            )
        if self.runtime is not None:
            self.runtime.check(options)
        return options.for_model(self.model.upsampling, self.model.guidance)

    def check(self, options: RestoreOptions | None = None) -> None:
        """Check that the options fit the model, whatever the picture; encode and keep their prompts.

        Raises:
            OptionError: the argument has another type, or the model has no use for one of the options.
            ModelError: the options ask for a prompt that the model cannot encode.
        """
        self.prompts(self.resolved(options))

    def decoder_for(self, options: RestoreOptions) -> TinyDecoder | None:
        """Give the decoder to use in place of the model's own, in its number format; None for the model's own."""
        if options.decoder != "tiny":
            return None
        if self._tiny_decoder is None:
            dtype = dtype_of(self.generator.autoencoder.decoder)
            layout = torch.channels_last if self.acceleration.channels_last else torch.contiguous_format
            with torch.inference_mode(False):  # kept for calls with gradients too
                self._tiny_decoder = load_tiny_decoder().to(self.device, dtype).to(memory_format=layout)  # type: ignore[call-overload]
        return self._tiny_decoder

    def adaptations(self, for_encoder: Tensor, for_unet: Tensor, in_turn: bool) -> tuple[Adaptation, Adaptation]:
        """Adapt the networks to the pictures' matrices.

        With gradients the networks get the matrices, since folding passes none; so do the graphs of another backend,
        whose weights stay as they are. Otherwise one picture gets folded weights. Of several pictures each in turn gets
        a folded encoder, since one picture uses the device fully there; the UNet runs on all together with the
        matrices, or in turn as well.
        """
        if torch.is_grad_enabled() or self.runtime is not None:
            return for_encoder, for_unet
        if len(for_encoder) > 1:
            unet = FoldedInTurn(self._unet, for_unet) if in_turn else for_unet
            return FoldedInTurn(self._encoder, for_encoder), unet
        return self._encoder.fold(for_encoder), self._unet.fold(for_unet)

    def prompts(self, options: RestoreOptions, batch_size: int = 1) -> tuple[Tensor, Tensor]:
        """Return the positive and the negative prompt for a batch, both [B, T, C].

        Raises:
            ModelError: the model cannot encode one of them.
        """
        positive, negative = (self.prompt(name, options) for name in PROMPTS)
        return positive.expand(batch_size, -1, -1), negative.expand(batch_size, -1, -1)

    def prompt(self, name: PromptName, options: RestoreOptions) -> Tensor:
        """Return one of the options' prompts, [1, T, C]; encode and keep a text that is not stored.

        Raises:
            ModelError: the model cannot encode it.
        """
        stored, text = self.model.prompts, getattr(options, name)
        is_positive = name == "positive_prompt"
        stored_text = stored.positive_text if is_positive else stored.negative_text
        # At guidance 1 the negative prompt has no effect, so it is not encoded.
        if text is None or text == stored_text or (options.guidance == 1 and not is_positive):
            return (stored.positive if is_positive else stored.negative)[None].to(self.device)
        if text not in self._encoded_prompts:
            encoded = encode_prompts(self.model.tokenizer, self.model.text_encoder, [text])
            with torch.inference_mode(False):  # kept for calls with gradients too
                self._encoded_prompts[text] = encoded.cpu().clone()
        return self._encoded_prompts[text].to(self.device)

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look`` before every layer of the encoder, the UNet and the decoder; its exception ends the work.

        Compiled networks (``fast``) are not interrupted: there only ``progress`` ends the work, after a tile. Another
        backend than torch is interrupted between stages.
        """
        if self.runtime is not None:
            with self.runtime.watched(look):
                yield
            return
        autoencoder, unet = self.generator.autoencoder, self.generator.unet
        networks = () if self.acceleration.compiled else (autoencoder.encoder, autoencoder.decoder, unet)
        layers = [layer for network in networks for layer in network.modules() if not any(layer.children())]
        hooks = [layer.register_forward_pre_hook(lambda *_: look()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
