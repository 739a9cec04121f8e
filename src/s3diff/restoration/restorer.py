"""The only place where the order of the restoration's steps is written. (Longer than 400 lines because what leads to
the walk, one picture, a batch or a file, and what comes of it stay beside it.)
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from s3diff.checkpoints.model_folder import LoadedModel, load_model
from s3diff.checkpoints.registry import DEFAULT_MODEL, model_folder
from s3diff.errors import OptionError, PictureError
from s3diff.images import codecs
from s3diff.images.color_match import match_color
from s3diff.images.resampling import crop, from_network_range
from s3diff.networks.degradation_estimator import DEGREE_NAMES
from s3diff.networks.folded_network import FoldedInTurn, FoldedNetwork
from s3diff.networks.modulated_lora import Adaptation
from s3diff.networks.prompts import encode_prompts
from s3diff.options import Precision, RestoreOptions
from s3diff.restoration.acceleration import choose_acceleration, compile_network
from s3diff.restoration.device import autoencoder_dtypes, choose_device, choose_dtype, repeatable, turn_of
from s3diff.restoration.finishing import finished, for_networks, working_options
from s3diff.restoration.memory import is_out_of_memory
from s3diff.restoration.regions import Canvas, EnlargedInput, LowQuality, cut_at_edge, estimate_in_tiles, tensor_reader
from s3diff.restoration.restored import Degrees, Restored, Walked
from s3diff.restoration.tile_plan import TilePlan, plan_tiles
from s3diff.restoration.tiled_stages import TiledStages
from s3diff.tiling import HaloSpan, Span

if TYPE_CHECKING:
    from s3diff.restoration.animation import RestoredAnimation
    from s3diff.restoration.streaming import RestoredFile

#: What can be restored: a path, a Picture, a Pillow image, or an array [H, W] or [H, W, C].
Source = Any

#: Mean distance of the channels from their mean, in [0, 1], up to which the result of a grey picture counts as grey:
#: eight levels of 255, several times what a trained model adds.
MAX_CHROMA_OF_GREY = 8 / 255
COLORED_NOTE = "a grey picture, written in colour because the model coloured it; grey=keep (--grey keep) forbids it"
#: A batch is cut into groups of at most this many output pixels.
MAX_BATCH_PIXELS = 2048 * 2048

#: Told how far the work is: stage (``tiles``, ``predict`` or ``frames``), done, in all. What it raises ends the work.
Progress = Callable[[str, int, int], None]


class Restorer:
    """A model on a device, ready to restore pictures.

    Make one with :meth:`from_pretrained`. It holds no state between calls but the embeddings of prompts it has seen:
    the same input, options and device give the same bytes.

    Args:
        model: from :func:`s3diff.checkpoints.model_folder.load_model`; moved to the device.
        device: ``auto`` (CUDA, MPS, CPU in this order) or a torch device.
        precision: ``auto`` (float32; bfloat16 where that is both fast and exact, see
            :func:`s3diff.restoration.device.choose_dtype`), ``float32``, ``float16`` or ``bfloat16``. They are the
            UNet's; see :func:`s3diff.restoration.device.autoencoder_dtypes` for the autoencoder's.
        exclusive: use and change the model's own networks instead of a copy, which saves their memory.
        fast: compile the networks, on CUDA with recorded graphs, where the machine can; see ``acceleration``. The first
            picture of every size takes minutes, and results need not be the same to the bit again.
        remark: told in one line when the compiler fails after all; None to warn.

    Raises:
        OptionError: the device is not on this machine, or the precision is unknown.
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
    ) -> None:
        self.model = model
        self.device = choose_device(device)
        self.dtype = choose_dtype(precision, self.device, model.config.schedule)
        generator = model.generator if exclusive else copy.deepcopy(model.generator)
        generator = generator.to(self.device).eval().requires_grad_(False)
        #: What is on and off on this device, with the reasons.
        self.acceleration = choose_acceleration(self.device, self.dtype, fast=fast)
        if self.acceleration.channels_last:
            generator = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Folding starts from float32 weights, whatever the networks compute in: these tensors stay as they are when
        # the modules get smaller ones.
        encoder_weights, unet_weights = generator.autoencoder.encoder.lora_weights(), generator.unet.lora_weights()
        generator.unet.to(self.dtype)
        encoder_dtype, decoder_dtype = autoencoder_dtypes(self.dtype, model.config.schedule)
        generator.autoencoder.to(encoder_dtype)
        generator.autoencoder.decoder.to(decoder_dtype)
        self.generator = generator
        self._encoder = FoldedNetwork(generator.autoencoder.encoder, encoder_weights)
        self._unet = FoldedNetwork(generator.unet, unet_weights)
        self._unet.network.fix_timestep(model.config.schedule.timestep)
        if self.acceleration.compiled:
            for network in (self._encoder.network, self._unet.network, generator.autoencoder.decoder):
                compile_network(network, self.device, remark or warnings.warn)
        self._encoded_prompts: dict[str, Tensor] = {}

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        announce: Callable[..., None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        fast: bool = False,
        remark: Callable[[str], None] | None = None,
    ) -> Restorer:
        """Load a model.

        Args:
            model: ``compact`` (embedded, no download), ``s3diff`` (the authors' release, fetched on first use), or a
                model folder.
            device: see :class:`Restorer`.
            precision: see :class:`Restorer`.
            announce: called with a ``DownloadPlan`` before a download starts; see ``s3diff.checkpoints.hub``.
            progress: called with (bytes done, bytes in all) during a download.
            fast: see :class:`Restorer`.
            remark: see :class:`Restorer`.

        Raises:
            ModelError: no such model, or a damaged one.
            DownloadError: the release could not be fetched; the message says how to use files on disk.
            OptionError: the device or the precision cannot be had, or ``model`` is no name and no path.
        """
        chosen = choose_device(device)
        choose_dtype(precision)  # before a download, not after it
        loaded = load_model(model_folder(model, announce=announce, progress=progress))
        return cls(loaded, device=chosen, precision=precision, exclusive=True, fast=fast, remark=remark)

    @property
    def precision(self) -> str:
        """The number format that the networks compute in, such as ``float32``."""
        return str(self.dtype).removeprefix("torch.")

    def check(self, options: RestoreOptions | None = None) -> None:
        """Make sure that the options fit the model, whatever the picture; prompts are encoded and kept.

        Raises:
            OptionError: these are no options.
            ModelError: the options ask for a prompt that the model cannot encode.
        """
        self._prompts(self._resolved(options), 1)

    @torch.inference_mode()
    def estimate(self, source: Source, options: RestoreOptions | None = None) -> Degrees:
        """How degraded a picture is, as :meth:`restore` would find it; does not wait for a restoration that runs.

        Args:
            source: see :meth:`restore`.
            options: of which only those count that change what the networks see, and the limits of a file.

        Raises:
            PictureError: the picture cannot be read.
        """
        options = self._resolved(options)
        seen = for_networks(as_picture(source, options), options)
        read, size = tensor_reader(codecs.to_tensor(seen)), (seen.height, seen.width)
        with repeatable(exactly=not self.acceleration.compiled):
            return Degrees(*estimate_in_tiles(self.generator.estimator, read, size, self.device)[0].tolist())

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look`` before every layer of the encoder, the UNet and the decoder; what it raises ends the work.

        Compiled networks (``fast``) are not interrupted: there ``progress`` alone ends the work, after a tile.
        """
        autoencoder, unet = self.generator.autoencoder, self.generator.unet
        networks = () if self.acceleration.compiled else (autoencoder.encoder, autoencoder.decoder, unet)
        layers = [layer for network in networks for layer in network.modules() if not any(layer.children())]
        hooks = [layer.register_forward_pre_hook(lambda *_: look()) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def restore(
        self, source: Source, options: RestoreOptions | None = None, *, progress: Progress | None = None
    ) -> Restored:
        """Restore one picture.

        Args:
            source: a path, a ``Picture``, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
                (uint8, uint16, or float in [0, 1]).
            options: None for the defaults: four times as large, guidance 1.07, wavelet colour matching.
            progress: told after every tile.

        Raises:
            PictureError: the picture cannot be read, or its result would be too large.
            OptionError: an option does not fit the model.
            ModelError: the options ask for a prompt that the model cannot encode.
        """
        options = self._resolved(options)
        picture = as_picture(source, options)
        check_output_size(picture, options)
        return self._restore_like_sized([picture], options, progress)[0]

    def restore_file(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        options: RestoreOptions | None = None,
        *,
        overwrite: bool = True,
        progress: Progress | None = None,
    ) -> RestoredFile:
        """Restore a file of any size into a tiled BigTIFF; see :func:`s3diff.restoration.streaming.restore_file`."""
        from s3diff.restoration.streaming import restore_file

        return restore_file(self, source, target, options, overwrite=overwrite, progress=progress)

    def restore_animation(
        self,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        options: RestoreOptions | None = None,
        *,
        quality: int = 95,
        overwrite: bool = True,
        progress: Progress | None = None,
    ) -> RestoredAnimation:
        """Restore an animated picture; see :func:`s3diff.restoration.animation.restore_animation`."""
        from s3diff.restoration.animation import restore_animation

        return restore_animation(self, source, target, options, quality=quality, overwrite=overwrite, progress=progress)

    def restore_batch(
        self, sources: Iterable[Source], options: RestoreOptions | None = None, *, in_turn: bool = False
    ) -> list[Restored]:
        """Restore pictures of any sizes; those of one size run together, each with matrices of its own.

        In float32 a result equals that of :meth:`restore` within one grey level: sums are taken in another order.
        With ``in_turn`` a picture does not depend on its neighbours: what the embedded model makes on a CPU is the same
        to the bit, as a test shows; other models and devices may round the decoder's sums otherwise.

        Args:
            sources: a list or any other series of what :meth:`restore` takes.
            options: for all of them.
            in_turn: run the encoder and the UNet on one picture after the other, with folded weights, and only what
                is not modulated on all together.

        Raises:
            OptionError: one picture was given, not several; or as :meth:`restore`.
            PictureError, ModelError: as :meth:`restore`; the first bad picture ends the batch before anything is
                computed.
        """
        options = self._resolved(options)
        if _is_one_picture(sources) or not isinstance(sources, Iterable):
            raise OptionError(
                f"restore_batch takes a list of pictures and was given one {type(sources).__name__}; give a list, or "
                "call restore for one"
            )
        pictures = [as_picture(source, options) for source in sources]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, picture in enumerate(pictures):
            check_output_size(picture, options)
            groups.setdefault((picture.width, picture.height), []).append(index)
        results: dict[int, Restored] = {}
        for size, members in groups.items():
            width, height = options.working_size(*size)
            step = max(1, MAX_BATCH_PIXELS // (width * height))
            for start in range(0, len(members), step):
                part = members[start : start + step]
                restored = self._restore_like_sized([pictures[index] for index in part], options, in_turn=in_turn)
                results.update(zip(part, restored, strict=True))
        return [results[index] for index in range(len(pictures))]

    def _restore_like_sized(
        self,
        pictures: Sequence[codecs.Picture],
        options: RestoreOptions,
        progress: Progress | None = None,
        *,
        in_turn: bool = False,
    ) -> list[Restored]:
        """The walk, and around it what brings pictures of one size to the networks and back to what they were."""
        working = working_options(pictures[0], options)
        seen = [for_networks(picture, options) for picture in pictures]
        results = self._restore_group(seen, working, progress, in_turn=in_turn)
        upsampling = options.upsampling or self.model.upsampling
        pairs = zip(results, pictures, strict=True)
        return [finished(result, picture, options, upsampling) for result, picture in pairs]

    def _restore_group(
        self,
        pictures: Sequence[codecs.Picture],
        options: RestoreOptions,
        progress: Progress | None = None,
        *,
        in_turn: bool = False,
    ) -> list[Restored]:
        """Pictures of one size, in tiles that the memory allows. When it runs out, in smaller ones."""
        first, config = pictures[0], self.model.config
        for picture in pictures:
            check_output_size(picture, options)
        width, height = options.output_size(first.width, first.height)
        rows, columns = (-(-side // config.pad_multiple) * config.pad_multiple for side in (height, width))
        plan: TilePlan | None = plan_tiles(config, rows, columns, options, self.device, self.dtype, len(pictures))
        note: tuple[str, ...] = ()
        while plan is not None:
            if len(pictures) > 1 and not plan.is_whole:
                return [self._restore_group([picture], options, progress)[0] for picture in pictures]
            try:
                low_quality = torch.cat([codecs.to_tensor(picture) for picture in pictures])
                read = LowQuality(tensor_reader(low_quality), (first.height, first.width), len(pictures))
                canvas = _canvas(first, (height, width), options) if len(plan.regions) > 1 else None
                walked = self.walk(read, options, plan, canvas=canvas, progress=progress, in_turn=in_turn)
                return [
                    Restored(
                        picture=_finished(canvas or walked.result[index : index + 1], picture, options),
                        degrees=walked.degrees[index],
                        estimated=walked.estimated[index],
                        seconds=walked.seconds,
                        options=options,
                        notes=note,
                    )
                    for index, picture in enumerate(pictures)
                ]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            plan = plan.smaller()
            if plan is not None:
                note = (f"memory ran out; restored in tiles of {plan.tile_px} px",)
                free_cached(self.device)
        raise PictureError(
            f"not enough memory for an output of {width} x {height} px; choose a smaller scale, size or tile, or a "
            "device with more memory"
        )

    @torch.inference_mode()
    def walk(
        self,
        low_quality: LowQuality,
        options: RestoreOptions,
        plan: TilePlan,
        *,
        canvas: Canvas | None = None,
        progress: Progress | None = None,
        in_turn: bool = False,
    ) -> Walked:
        """The walk of the method, for pictures of one size; pictures of any kind reach it through :meth:`restore`.

        Args:
            low_quality: opaque sRGB pictures.
            options: whose output size is the networks' own.
            plan: of that size.
            canvas: takes the parts of one picture; what it holds already is not computed again. None where the plan
                has one part.
            progress: told after every tile.
            in_turn: see :meth:`restore_batch`.
        """
        # Folded weights lie in one place until the next picture's, and a plan counts on the device's free memory.
        with turn_of(self.device), repeatable(exactly=not self.acceleration.compiled):
            return self._walk(low_quality, options, plan, canvas, progress, in_turn)

    def _walk(
        self,
        low_quality: LowQuality,
        options: RestoreOptions,
        plan: TilePlan,
        canvas: Canvas | None,
        progress: Progress | None,
        in_turn: bool,
    ) -> Walked:
        """Every step is one line here and nowhere else."""
        config, (read, size, count) = self.model.config, low_quality
        width, height = options.output_size(size[1], size[0])
        positive, negative = self._prompts(options, count)
        clock, part = _StageClock(self.device), 1 if in_turn else count
        with clock.stage("estimate"):
            estimated = self._estimated(low_quality, in_turn)
            degrees = _overridden(estimated, options)
            matrices = zip(*(self.generator.conditioning(each) for each in degrees.split(part)), strict=True)
            for_encoder, for_unet = (torch.cat(each) for each in matrices)
        with clock.stage("fold"):
            encoder_adaptation, unet_adaptation = self._adaptations(for_encoder, for_unet, in_turn)
        # On the CPU: not every device has the filter against aliasing, and all enlarge alike.
        enlarged = EnlargedInput(read, size, (height, width), options.upsampling or self.model.upsampling)
        regions, result = plan.regions, None
        for done, (rows, columns) in enumerate(regions):
            if canvas is not None and canvas.holds(rows, columns):
                continue
            stages = TiledStages(self.generator, plan, partial(progress, "predict") if progress else None)
            with clock.stage("prepare"):
                base, image = enlarged.region(rows.read, columns.read, self.device)
            with clock.stage("encode"):
                latent = stages.encode(image, encoder_adaptation, self._latent_noise(plan, rows, columns, options))
            with clock.stage("predict"):
                prediction = stages.predict_guided(latent, positive, negative, float(options.guidance), unet_adaptation)
            with clock.stage("decode"):
                clean = config.schedule.clean_latent(latent, prediction)
                rows, columns = cut_at_edge(rows, height), cut_at_edge(columns, width)
                base = crop(base, rows.read.length, columns.read.length)
                decoded = crop(from_network_range(stages.decode(clean, image)), rows.read.length, columns.read.length)
            with clock.stage("color"):
                if canvas is None:
                    pairs = zip(decoded.split(part), base.split(part), strict=True)
                    result = torch.cat([match_color(*pair, options.color_match) for pair in pairs])
                else:
                    canvas.write(decoded, base, rows, columns)
            if progress is not None:
                progress("tiles", done + 1, len(regions))
        as_degrees = [[Degrees(*row) for row in values.tolist()] for values in (degrees, estimated)]
        return Walked(result, as_degrees[0], as_degrees[1], clock.shared_by(count))

    def _estimated(self, low_quality: LowQuality, in_turn: bool) -> Tensor:
        """[B, 2]; in turn where a batch's sums, which are rounded otherwise, must not be seen."""
        estimator, (read, size, count) = self.generator.estimator, low_quality
        if not in_turn:
            return estimate_in_tiles(estimator, read, size, self.device)

        def read_one(rows: Span, columns: Span, index: int) -> Tensor:
            return read(rows, columns)[index : index + 1].clone()  # aligned as a picture of its own

        readers = [partial(read_one, index=index) for index in range(count)]
        return torch.cat([estimate_in_tiles(estimator, reader, size, self.device) for reader in readers])

    def _adaptations(self, for_encoder: Tensor, for_unet: Tensor, in_turn: bool) -> tuple[Adaptation, Adaptation]:
        """One picture: folded weights. Several: the encoder, which one picture keeps busy, folded for each in turn; the
        UNet on all together, with the matrices themselves, or in turn as well.
        """
        if len(for_encoder) > 1:
            unet = FoldedInTurn(self._unet, for_unet) if in_turn else for_unet
            return FoldedInTurn(self._encoder, for_encoder), unet
        return self._encoder.fold(for_encoder), self._unet.fold(for_unet)

    def _latent_noise(
        self, plan: TilePlan, rows: HaloSpan, columns: HaloSpan, options: RestoreOptions
    ) -> Tensor | None:
        """Every picture of a batch draws the noise that it would draw alone; on the CPU, equal on every device.

        It is drawn for the whole picture, whatever the tiles; a part gets its own.
        """
        if options.latent == "mean":
            return None
        config = self.model.config.autoencoder
        shape = (1, config.latent_channels, plan.height // config.downscale, plan.width // config.downscale)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(options.seed))
        down, across = (slice(*(side // config.downscale for side in span.read)) for span in (rows, columns))
        return noise[:, :, down, across].to(self.device)

    def _prompts(self, options: RestoreOptions, batch_size: int) -> tuple[Tensor, Tensor]:
        stored = self.model.prompts
        positive = self._prompt(options.positive_prompt, stored.positive_text, stored.positive)
        # At guidance 1 nobody looks at the negative prompt, so nothing is encoded for it.
        negative_text = None if options.guidance == 1 else options.negative_prompt
        negative = self._prompt(negative_text, stored.negative_text, stored.negative)
        return positive.expand(batch_size, -1, -1), negative.expand(batch_size, -1, -1)

    def _prompt(self, text: str | None, stored_text: str | None, stored: Tensor) -> Tensor:
        if text is None or text == stored_text:
            return stored[None].to(self.device)
        if text not in self._encoded_prompts:
            encoded = encode_prompts(self.model.tokenizer, self.model.text_encoder, [text])
            self._encoded_prompts[text] = encoded.to(self.device)
        return self._encoded_prompts[text]

    def _resolved(self, options: RestoreOptions | None) -> RestoreOptions:
        options = RestoreOptions() if options is None else options
        if not isinstance(options, RestoreOptions):
            raise OptionError(f"options is a {type(options).__name__}; give a RestoreOptions")
        return options if options.upsampling else replace(options, upsampling=self.model.upsampling)


def check_output_size(picture: codecs.Picture, options: RestoreOptions) -> tuple[int, int]:
    """The result's (width, height) in pixels, if the options allow so many.

    Raises:
        PictureError: they do not.
    """
    name = str(picture.path) if picture.path else "the picture"
    try:
        width, height = options.output_size(picture.width, picture.height)
        megapixels = width * height / 1e6
    except OverflowError:
        raise PictureError(f"{name} would become larger than any picture; choose a smaller scale or size") from None
    if width * height > options.max_output_pixels:
        raise PictureError(
            f"{name} would become {width:.9g} x {height:.9g} px, {megapixels:.3g} megapixels; at most "
            f"{options.max_output_pixels / 1e6:.3g} are allowed: choose a smaller scale or size, raise the limit "
            "(max_output_pixels, --max-megapixels), or stream it into a .tif (restore_file, --stream)"
        )
    return width, height


def _is_one_picture(source: Any) -> bool:
    """Whether this is a picture rather than several; what has four axes is a series of arrays."""
    is_array = isinstance(source, np.ndarray) and source.ndim <= 3
    return is_array or isinstance(source, str | os.PathLike | codecs.Picture) or hasattr(source, "getbands")


def as_picture(source: Source, options: RestoreOptions) -> codecs.Picture:
    """Whatever a user may hold as a ``Picture``; ``options`` limits what is read from a file.

    Raises:
        PictureError: the file cannot be read, or the object is none of these.
    """
    if isinstance(source, codecs.Picture):
        return source
    if isinstance(source, str | os.PathLike):
        return codecs.read_picture(source, options.max_input_pixels, options.max_file_bytes)
    if isinstance(source, np.ndarray):
        return codecs.from_array(source)
    if hasattr(source, "getbands"):  # a Pillow image, known without importing Pillow here
        return codecs.from_pil(source)
    raise PictureError(f"cannot restore a {type(source).__name__}; give a path, a Pillow image or a numpy array")


def _overridden(estimated: Tensor, options: RestoreOptions) -> Tensor:
    """[B, 2] with the degrees that the options set or move by hand."""
    degrees = estimated.clone()
    for column, name in enumerate(DEGREE_NAMES):
        chosen = [options.degree(name, value) for value in estimated[:, column].tolist()]
        degrees[:, column] = torch.tensor(chosen, dtype=degrees.dtype)
    return degrees


def _canvas(picture: codecs.Picture, size: tuple[int, int], options: RestoreOptions) -> Canvas:
    return Canvas(size, picture.pixels.dtype, options.color_match, is_grey=picture.is_grey)


def _finished(result: Tensor | Canvas, picture: codecs.Picture, options: RestoreOptions) -> codecs.Picture:
    """Pixels rounded once, in the input's depth; profile and metadata as they were.

    ``result``: [1, 3, H, W] in [0, 1], or the canvas of a picture restored in parts. ``picture`` is opaque:
    transparency comes back in :func:`s3diff.restoration.finishing.finished`.
    """
    if picture.is_grey and becomes_color(result, options):
        pixels = np.repeat(picture.pixels, 3, axis=2)
        picture = replace(picture, pixels=pixels, icc_profile=None, notes=(*picture.notes, COLORED_NOTE))
    if isinstance(result, Canvas):
        return replace(picture, pixels=result.finished(in_grey=picture.is_grey))
    return replace(picture, pixels=codecs.from_tensor(result, picture))


def becomes_color(result: Tensor | Canvas, options: RestoreOptions) -> bool:
    """Whether a grey picture's result is written in colour; ``result``: [1, 3, H, W] in [0, 1], or a canvas."""
    if options.grey != "auto":
        return options.grey == "color"
    if isinstance(result, Canvas):
        return result.chroma() > MAX_CHROMA_OF_GREY
    chroma = (result - result.mean(dim=1, keepdim=True)).abs().mean()
    return float(chroma) > MAX_CHROMA_OF_GREY


def free_cached(device: torch.device) -> None:
    """What an allocator keeps for later goes back before the next try."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


@dataclass
class _StageClock:
    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def shared_by(self, num_pictures: int) -> dict[str, float]:
        shared = {name: seconds / num_pictures for name, seconds in self.seconds.items()}
        return {**shared, "total": sum(shared.values())}
