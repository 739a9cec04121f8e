"""Run the generator's stages on OpenVINO or ONNX Runtime: the inputs and outputs of :class:`TiledStages`.

Every stage is a graph for all sizes, traced from the model once and kept in the cache. Matrices, prompts, guidance and
noise are inputs or stay in torch, so that every option of the method has its effect. A stage may need a picture as a
whole: backends are for local models, which the walk hands over region by region.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from s3diff.atomic_write import whole_folder
from s3diff.errors import ModelError, OptionError, OutputError
from s3diff.messages import reason_of, shown_path
from s3diff.networks.graphs import DecoderGraph, EncoderGraph, PredictGraph, with_fixed_timestep
from s3diff.networks.modulated_lora import Adaptation
from s3diff.networks.one_step_generator import OneStepGenerator
from s3diff.options import RestoreOptions
from s3diff.restoration.runtimes import (
    FILE_OF,
    Runtime,
    open_graph,
    require_installed,
    traced,
    write_onnx,
    write_openvino,
)
from s3diff.user_folders import cache_folder
from s3diff.version import __version__

if TYPE_CHECKING:
    from s3diff.checkpoints.model_folder import LoadedModel

#: Runs a graph: takes arrays in the order of its inputs, returns its one output.
Run = Callable[[Sequence[np.ndarray]], np.ndarray]


class _Graph(NamedTuple):
    """A stage to trace: its module, an example of its inputs, and which of their sides are open."""

    module: nn.Module
    inputs: dict[str, Tensor]
    open_sides: tuple[dict[int, Any] | None, ...]


class RuntimeStages:
    """``encode``, ``predict_guided`` and ``decode`` of a local model on another runtime than torch.

    Args:
        generator: its own or a copy, in float32, on the CPU.
        runtime: the package that runs it.
        dtype: what OpenVINO computes in, float32 or bfloat16; ONNX Runtime computes in float32.
        announce: called with one line before graphs are made, which takes up to a minute.

    Attributes:
        look: called before every stage; its exception ends the work.

    Raises:
        MissingExtraError: the runtime is not installed.
        OptionError: the model needs the whole picture for each pixel, or the runtime has no such number format.
    """

    def __init__(
        self,
        model: LoadedModel,
        generator: OneStepGenerator,
        runtime: Runtime,
        dtype: torch.dtype,
        announce: Callable[[str], None],
    ) -> None:
        require_installed(runtime, f"the backend {runtime}")
        if not model.config.is_local:
            raise OptionError(
                f"backend is {runtime!r}, which runs models whose pixels depend on their surroundings, such as "
                f"compact; {model.name} looks at the whole picture: give 'torch'"
            )
        if dtype not in dtypes_of(runtime):
            names = " or ".join(str(each).removeprefix("torch.") for each in dtypes_of(runtime))
            raise OptionError(
                f"precision is {str(dtype).removeprefix('torch.')!r}; {runtime} computes in {names}: give that"
            )
        self.config, self.runtime, self.dtype = model.config, runtime, dtype
        self.look: Callable[[], None] = lambda: None
        self._generator, self._announce = generator, announce
        self._runs: dict[str, Run] = {}
        # What a graph depends on; the runtime's version too, whose files are not said to be read by others.
        made_of = f"{model.fingerprint} {runtime} {version(runtime)} {torch.__version__} {__version__}"
        self.folder = cache_folder() / "graphs" / hashlib.sha256(made_of.encode()).hexdigest()[:16]

    def check(self, options: RestoreOptions) -> None:
        """Refuse options that a backend cannot fulfil.

        Raises:
            OptionError: it cannot.
        """
        if options.released_tiles is not None:
            raise OptionError(
                f"backend is {self.runtime!r}, which has not the tiles of the authors' code; leave out "
                "released_tiles (--released-tiles), or give the backend 'torch'"
            )
        if options.decoder != "model":
            raise OptionError(
                f"backend is {self.runtime!r}, which has the model's own decoder; leave out decoder (--decoder), or "
                "give the backend 'torch'"
            )

    def encode(self, image: Tensor, adaptation: Adaptation, noise: Tensor | None = None) -> Tensor:
        moments = self._run("encoder", zip(image.split(1), _matrices(adaptation), strict=True))
        return self._generator.latent_from(moments, noise)

    def predict_guided(
        self, latent: Tensor, positive: Tensor, negative: Tensor, guidance: float, adaptation: Adaptation
    ) -> Tensor:
        adapted = zip(latent.split(1), _matrices(adaptation), strict=True)
        if guidance == 1:
            return self._run(
                "unet_positive", ((*each, own) for each, own in zip(adapted, positive.split(1), strict=True))
            )
        weight, contexts = torch.tensor([float(guidance)]), torch.stack([positive, negative], dim=1)
        return self._run("unet_guided", ((*each, own, weight) for each, own in zip(adapted, contexts, strict=True)))

    def decode(self, latent: Tensor, image: Tensor) -> Tensor:
        return self._generator.picture_from(self._run("decoder", zip(latent.split(1))), image)

    @contextmanager
    def watched(self, look: Callable[[], None]) -> Iterator[None]:
        """Call ``look`` before every stage; its exception ends the work."""
        before, self.look = self.look, look
        try:
            yield
        finally:
            self.look = before

    def _run(self, name: str, pictures: Iterable[tuple[Tensor, ...]]) -> Tensor:
        """Run a graph on one picture's inputs after the other's."""
        self.look()
        if name not in self._runs:
            self._runs[name] = self._opened(name)
        made = [self._runs[name]([_array(each) for each in inputs]) for inputs in pictures]
        return torch.from_numpy(np.concatenate(made))

    def _opened(self, name: str) -> Run:
        """Load a graph from the cache; make it where it is not there, or damaged."""
        kept = self.folder / name
        path = kept / f"graph{FILE_OF[self.runtime]}"
        if path.is_file():
            try:
                return self._loaded(path)
            except Exception:  # noqa: BLE001 - of the runtime's own types; made anew below
                shutil.rmtree(kept, ignore_errors=True)
        self._announce(f"making the graph {name} for {self.runtime}: once, it is kept in {shown_path(self.folder)}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / f"{name}.lock"):
                if not path.is_file():  # another process may have made it meanwhile
                    with whole_folder(kept) as new:
                        self._write(name, new / path.name)
                return self._loaded(path)
        except (OSError, OutputError):  # a cache that cannot be written
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                self._write(name, Path(folder, path.name))
                return self._loaded(Path(folder, path.name))

    def _loaded(self, path: Path) -> Run:
        return open_graph(self.runtime, path, dtype=self.dtype, num_threads=torch.get_num_threads())

    @torch.inference_mode(False)
    def _write(self, name: str, path: Path) -> None:
        graph = _graph(self._generator, name)
        program = traced(graph.module, tuple(graph.inputs.values()), graph.open_sides)
        names = (tuple(graph.inputs), (name,))
        write = write_openvino if self.runtime == "openvino" else write_onnx
        try:
            write(program, path, names, {"s3diff": __version__})
        except OSError:
            raise
        except Exception as error:  # of the runtime's own types
            raise ModelError(
                f"{self.runtime} cannot take these networks ({reason_of(error)}); give the backend 'torch'"
            ) from error


def dtypes_of(runtime: Runtime) -> tuple[torch.dtype, ...]:
    """List the number formats that a runtime computes in here."""
    return (torch.float32, torch.bfloat16) if runtime == "openvino" else (torch.float32,)


def _graph(generator: OneStepGenerator, name: str) -> _Graph:
    config, fixed = generator.config, with_fixed_timestep(generator)
    # Odd multiples of two different sides: none is taken for the other, or for a constant.
    height, width = 3 * config.pad_multiple, 5 * config.pad_multiple
    degrees = torch.full((1, 2), 0.5)
    with torch.no_grad():
        for_encoder, for_unet = fixed.conditioning(degrees)
    downscale = config.autoencoder.downscale
    image = torch.zeros(1, 3, height, width)
    latent = torch.zeros(1, config.autoencoder.latent_channels, height // downscale, width // downscale)
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    if name == "encoder":
        return _Graph(EncoderGraph(fixed), {"image": image, "modulation": for_encoder}, (sides, None))
    if name == "decoder":
        return _Graph(DecoderGraph(fixed), {"latent": latent}, (sides,))
    is_guided = name == "unet_guided"
    context = torch.zeros(1 + is_guided, _TRACED_TOKENS, config.unet.context_channels)
    tokens = {1: torch.export.Dim.DYNAMIC}  # a prompt's number of tokens is the tokenizer's
    inputs = {"latent": latent, "modulation": for_unet, "context": context}
    if not is_guided:
        return _Graph(PredictGraph(fixed), inputs, (sides, None, tokens))
    return _Graph(PredictGraph(fixed), {**inputs, "guidance": torch.ones(1)}, (sides, None, tokens, None))


#: Tokens of the prompt that the UNet is traced with.
_TRACED_TOKENS = 7


def _matrices(adaptation: Adaptation) -> tuple[Tensor, ...]:
    assert isinstance(adaptation, Tensor)  # nothing is folded for a backend
    return adaptation.split(1)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().float().numpy())
