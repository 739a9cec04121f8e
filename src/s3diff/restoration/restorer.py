"""Restore pictures with a model: one, a batch, a file of any size, an animation."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from s3diff.checkpoints.model_folder import load_model
from s3diff.checkpoints.registry import DEFAULT_MODEL, model_folder
from s3diff.errors import OptionError, PictureError, S3DiffError
from s3diff.images.files.pages import open_pages
from s3diff.images.files.pillow_pictures import from_pil
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import Picture, from_array
from s3diff.option_keywords import RestoreChanges
from s3diff.options import ALL_PAGES, Backend, Precision, RestoreOptions
from s3diff.restoration import frames_and_pages, steps, streaming, tensors
from s3diff.restoration.backends import device_for
from s3diff.restoration.device import choose_dtype
from s3diff.restoration.device_model import DeviceModel
from s3diff.restoration.result import Degrees, Result
from s3diff.restoration.sizes import Size
from s3diff.restoration.stage_events import OnBegin, OnShare, OnStage
from s3diff.restoration.steps import Opened, Progress, opened_picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Unpack

#: Restorable objects: a path, a Picture, a Pillow image, or an array [H, W] or [H, W, C].
Source: TypeAlias = "str | os.PathLike[str] | Picture | Image | np.ndarray[Any, Any] | Opened"

#: A batch is cut into groups of at most this many output pixels.
MAX_BATCH_PIXELS = 2048 * 2048


class Restorer(DeviceModel):
    """Restore pictures with a model on a device.

    Make one with :meth:`from_pretrained`. A Restorer keeps only embeddings of prompts between calls, so the same input,
    options and device give the same bytes.

    Arguments and errors are those of :class:`DeviceModel`.
    """

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
        backend: Backend = "torch",
    ) -> Restorer:
        """Load a model; the other arguments are those of the class.

        Args:
            model: ``compact`` (embedded, no download), ``s3diff`` (the authors' release, fetched on first use), or a
                model folder.
            announce: called with a ``DownloadPlan`` before a download starts; see ``s3diff.checkpoints.hub``.
            progress: called with (bytes done, bytes in all) during a download.

        Raises:
            ModelError: the model does not exist, or is damaged.
            DownloadError: the release could not be fetched; the message says how to use files on disk.
            OptionError: device, precision or backend is not available, or ``model`` is neither a name nor a path.
            MissingExtraError: the backend is not installed.
        """
        chosen = device_for(backend, device, fast=fast)
        choose_dtype(precision)  # before a download, not after it
        loaded = load_model(model_folder(model, announce=announce, progress=progress))
        return cls(
            loaded, device=chosen, precision=precision, exclusive=True, fast=fast, remark=remark, backend=backend
        )

    def estimate(self, source: Source, options: RestoreOptions | None = None) -> Degrees:
        """Estimate how degraded a picture is, as :meth:`restore` would, without waiting for a running restoration.

        Args:
            source: see :meth:`restore`.
            options: only the limits of a file count.

        Raises:
            PictureError: the picture cannot be read.
        """
        return steps.estimate(self, as_picture(source, self.resolved(options)))

    def restore(
        self,
        source: Source,
        options: RestoreOptions | None = None,
        *,
        degrees: Degrees | None = None,
        progress: Progress | None = None,
        on_stage: OnStage | None = None,
        on_begin: OnBegin | None = None,
        on_share: OnShare | None = None,
        **changes: Unpack[RestoreChanges],
    ) -> Result:
        """Restore one picture.

        Args:
            source: a path, a ``Picture``, a Pillow image, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]
                (uint8, uint16, or float in [0, 1], which gives float32).
            options: None for the defaults: four times as large, the model's own guidance, wavelet colour matching.
            degrees: instead of the estimate and the options' degrees.
            progress: called after every tile.
            on_stage: called for every tile with (name, tensor) of each stage: ``latent``, the encoded input;
                ``prediction``, the UNet's; ``clean``, x0 (all [1, latent_channels, h, w]); ``decoded``, the picture
                [1, 3, H, W] in [-1, 1] before colours are matched. A tensor of the same shape that it returns is used
                instead.
            on_begin: called when a stage begins, with its name, the part of the picture and the number of parts.
            on_share: called during each stage of the networks with the stage's finished share, in [0, 1]; only on a
                CPU, and only if the networks are not compiled.
            changes: fields that replace those of the options, such as ``scale=2``.

        Raises:
            PictureError: the picture cannot be read, or its result would be too large.
            OptionError: an option does not fit the model.
            ModelError: the options ask for a prompt that the model cannot encode.
            TypeError: a change that is no option.
        """
        options = self.resolved(options, changes)
        opened = [self._opened(source, options)]
        hooked = partial(steps.restore, on_stage=on_stage, on_begin=on_begin, on_share=on_share)
        return hooked(self, opened, options, progress, degrees=degrees)[0]

    def restore_tensor(
        self,
        images: Tensor,
        options: RestoreOptions | None = None,
        *,
        degrees: Tensor | None = None,
        differentiable: bool = False,
        clamp: bool = False,
        channels_last: bool | None = None,
        progress: Progress | None = None,
        on_stage: OnStage | None = None,
        **changes: Unpack[RestoreChanges],
    ) -> tensors.RestoredTensors:
        """Restore a batch of tensors without files; each picture has its own degrees.

        Before rounding, the values equal those of :meth:`restore_batch`, and for one picture those of :meth:`restore`.

        Args:
            images: [B, 3, H, W] or [B, H, W, 3] RGB, uint8 or float in [0, 1], on any device.
            options: as in :meth:`restore`; options of files, transparency and grey pictures are ignored.
            degrees: [2] or [B, 2] in [0, 1], blur and noise, instead of the estimate and of the options' degrees.
            differentiable: let gradients pass from the result to ``images`` and ``degrees``. The LoRA is then computed
                per picture, not folded into the weights, which changes rounding.
            clamp: clamp values outside [0, 1] instead of refusing them.
            channels_last: whether ``images`` is [B, H, W, 3]; None decides by the shape.
            progress: called after every tile.
            on_stage: see :meth:`restore`; tensors are of the whole batch.

        Raises:
            PictureError: another shape or type, values outside [0, 1] or not finite, or a result too large.
            OptionError: an option or the degrees are not allowed.
            ModelError: the options ask for a prompt that the model cannot encode.
            TypeError: a change that is no option.
        """
        return tensors.restore_tensors(
            self,
            images,
            self.resolved(options, changes),
            degrees=degrees,
            differentiable=differentiable,
            clamp=clamp,
            channels_last=channels_last,
            progress=progress,
            on_stage=on_stage,
        )

    restore_file = streaming.restore_file
    restore_animation = frames_and_pages.restore_animation
    restore_pages = frames_and_pages.restore_pages

    @overload
    def restore_batch(
        self,
        sources: Iterable[Source],
        options: RestoreOptions | None = None,
        *,
        in_turn: bool = False,
        on_error: Literal["raise"] = "raise",
        **changes: Unpack[RestoreChanges],
    ) -> list[Result]: ...

    @overload
    def restore_batch(
        self,
        sources: Iterable[Source],
        options: RestoreOptions | None = None,
        *,
        in_turn: bool = False,
        on_error: Literal["return"],
        **changes: Unpack[RestoreChanges],
    ) -> list[Result | S3DiffError]: ...

    def restore_batch(
        self,
        sources: Iterable[Source],
        options: RestoreOptions | None = None,
        *,
        in_turn: bool = False,
        on_error: Literal["raise", "return"] = "raise",
        **changes: Unpack[RestoreChanges],
    ) -> list[Result] | list[Result | S3DiffError]:
        """Restore pictures of any sizes; those of one size run together, each with its own matrices.

        In float32 a result equals that of :meth:`restore` within one grey level: sums are computed in another order.
        With ``in_turn`` a picture does not depend on its neighbours: results of the embedded model on a CPU are the
        same to the bit, as a test shows; other models and devices may round the decoder's sums otherwise.

        Args:
            sources: any series of objects that :meth:`restore` takes.
            in_turn: run the networks on one picture after the other, with folded weights.
            on_error: ``raise``: the first bad picture ends the batch before anything is computed; ``return``: its error
                takes its place in the list.

        Raises:
            OptionError: one picture was given, not several; or as :meth:`restore`.
            PictureError, ModelError: as :meth:`restore`.
            TypeError: a change that is no option.
        """
        options = self.resolved(options, changes)
        if on_error not in ("raise", "return"):
            raise OptionError(f"on_error is {on_error!r}; give raise or return")
        if _is_one_picture(sources) or not isinstance(sources, Iterable):
            raise OptionError(
                f"restore_batch takes a list of pictures and was given one {type(sources).__name__}; give a list, or "
                "call restore for one"
            )
        self.check(options)  # an error in the options is no picture's error
        opened: list[Opened | S3DiffError] = []
        for source in sources:
            try:
                opened.append(self._opened(source, options))
            except S3DiffError as error:
                if on_error == "raise":
                    raise
                opened.append(error)
        groups: dict[Size, list[int]] = {}
        for index, each in enumerate(opened):
            if isinstance(each, Opened):
                groups.setdefault(each.sizes.input, []).append(index)
        results: dict[int, Result | S3DiffError] = {
            index: each for index, each in enumerate(opened) if isinstance(each, S3DiffError)
        }
        for members in groups.values():
            group = [each for each in (opened[index] for index in members) if isinstance(each, Opened)]
            at_once = max(1, MAX_BATCH_PIXELS // group[0].sizes.num_working_pixels)
            for start in range(0, len(members), at_once):
                try:
                    part = group[start : start + at_once]
                    restored: Iterable[Result | S3DiffError] = steps.restore(self, part, options, in_turn=in_turn)
                except S3DiffError as error:
                    if on_error == "raise":
                        raise
                    restored = [error] * len(part)  # all have one size: if one is too large, each is
                results.update(zip(members[start:], restored, strict=False))
        return [results[index] for index in range(len(opened))]

    def _opened(self, source: Source, options: RestoreOptions) -> Opened:
        return source if isinstance(source, Opened) else opened_picture(as_picture(source, options), options)


def _is_one_picture(source: Any) -> bool:
    """Check whether this is one picture; an array of four axes is a series."""
    is_array = isinstance(source, np.ndarray) and source.ndim <= 3
    return is_array or isinstance(source, str | os.PathLike | Picture) or hasattr(source, "getbands")


def as_picture(source: Source, options: RestoreOptions) -> Picture:
    """Convert a source to a ``Picture``; ``options`` holds the limits of files.

    Raises:
        PictureError: the file cannot be read, or the object is of another type.
    """
    if isinstance(source, Opened):
        return source.picture
    if isinstance(source, Picture):
        return source
    if isinstance(source, str | os.PathLike):
        limits = options.max_input_pixels, options.max_file_bytes
        if options.pages == ALL_PAGES:
            return read_picture(source, *limits)
        numbers = open_pages(source, options.pages, *limits).numbers
        if len(numbers) > 1:
            raise PictureError(f"a picture in memory is one page, and {len(numbers)} are wanted; call restore_pages")
        return read_picture(source, *limits, numbers[0])
    if isinstance(source, np.ndarray):
        return from_array(source)
    if hasattr(source, "getbands"):  # a Pillow image, known without importing Pillow here
        return from_pil(source)
    if isinstance(source, Tensor):
        raise PictureError("restore takes pictures and was given a tensor; call restore_tensor")
    raise PictureError(f"cannot restore a {type(source).__name__}; give a path, a Pillow image or a numpy array")


#: The last call's restorer by its arguments: one entry or none.
_kept: dict[tuple[str, str, str], Restorer] = {}
_LOADING = threading.Lock()


def restore(
    source: Source,
    *,
    model: str | Path = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
    **options: Unpack[RestoreChanges],
) -> Result:
    """Restore one picture; keep the model loaded for the next call.

    Args:
        source: a path, a Pillow image or an array; see :meth:`Restorer.restore`.
        model: ``compact``, ``s3diff`` or a model folder.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        precision: see :class:`Restorer`.
        options: fields of :class:`s3diff.RestoreOptions`, such as ``scale=2``.

    Raises:
        S3DiffError: see :meth:`Restorer.restore` and :meth:`Restorer.from_pretrained`.
        TypeError: an option that does not exist.
    """
    checked = RestoreOptions(**options)
    return _restorer(model, device, precision).restore(source, checked)


def _restorer(model: str | Path, device: str, precision: Precision) -> Restorer:
    asked = (repr(model), repr(device), repr(precision))
    with _LOADING:
        if asked not in _kept:
            # Drop the old model first: memory may not hold two.
            _kept.clear()
            _kept[asked] = Restorer.from_pretrained(model, device=device, precision=precision)
        return _kept[asked]
