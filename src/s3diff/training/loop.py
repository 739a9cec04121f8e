"""Run the loop of every training: crops, steps, reports, checkpoints, signals, one process or many.

Everything random in step s is a function of the seed and s, and every process draws the numbers of the whole batch and
takes its rows. So a run needs no random state to go on, and does not depend on how many processes share its batch.
"""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from s3diff.checkpoints.config_json import to_json
from s3diff.errors import OptionError, TrainingError
from s3diff.training.config import EstimatorTrainConfig, TrainConfig
from s3diff.training.data.batches import crop_batches
from s3diff.training.data.crops import CropDataset
from s3diff.training.data.sources import names_digest
from s3diff.training.muon import Muon
from s3diff.training.run_checkpoints import (
    RunState,
    checkpoint_paths,
    load_checkpoint,
    require_same_run,
    save_checkpoint,
)
from s3diff.training.tracking import Tracker

_LOGGER = logging.getLogger(__name__)

#: Marks a log record that each process has to show, not only the main one.
EVERY_PROCESS = {"every_process": True}
#: Environment variables by which ``accelerate launch`` asks for ways of training that would bypass this loop.
_OTHER_ENGINES = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


@dataclass(frozen=True)
class StepReport:
    """Hold a step's figures.

    Attributes:
        step: updates made.
        max_steps: of the run.
        values: means since the last report: losses before weighting, gradient norm, learning rate, images per second.
    """

    step: int
    max_steps: int
    values: Mapping[str, float]


class Stopped(Exception):
    """Report that a signal ended the run after a checkpoint; ``signal_number`` names it."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step
        self.signal_number = signal_number


class Loop(ABC):
    """Run steps until the end of a training. A subclass defines the step.

    Args:
        accelerator: processes and devices; None for this process on the best device.
    """

    #: Which training a checkpoint belongs to.
    kind: str
    #: Fingerprint of the weights that a checkpoint does not store.
    base_fingerprint = ""
    #: Steps between validations; 0 for only the first and the last.
    validate_every = 0

    def __init__(
        self,
        config: TrainConfig | EstimatorTrainConfig,
        crops: CropDataset,
        output: Path,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config, self.crops, self.output = config, crops, output
        self.accelerator = accelerator or make_accelerator()
        self.device = self.accelerator.device
        self.step = 0
        self.batch_size = config.data.batch_size * config.data.accumulate * self.accelerator.num_processes
        self.optimisers: dict[str, torch.optim.Optimizer] = {}
        self._num_skipped: dict[str, int] = {}
        #: Digest of the names of the pictures that the run draws from.
        self.pictures = names_digest(crops.source)

    @abstractmethod
    def train_step(self, ground_truth: list[Tensor]) -> dict[str, Tensor]:
        """Step on this process's crops: uint8 [B, 3, H, W] for each accumulated batch. Returns detached scalars."""

    @abstractmethod
    def own_state(self) -> dict[str, Any]:
        """Collect the fields of the state that differ between trainings, tensors first of all."""

    @abstractmethod
    def load(self, state: RunState) -> None:
        """Load a state that fits."""

    def validate(self, tracker: Tracker) -> None:  # noqa: B027 - nothing, unless a training has something to score
        """Score the model on known pictures, at the start, on the way and at the end."""

    def state(self) -> RunState:
        """Collect everything that a resumed run needs; with the seed it decides all that follows."""
        return RunState(
            kind=self.kind,
            config=to_json(self.config),
            step=self.step,
            batch_size=self.batch_size,
            base=self.base_fingerprint,
            pictures=self.pictures,
            optimisers={name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            **self.own_state(),
        )

    def run(self, report: Callable[[StepReport], None] | None = None) -> None:
        """Train until ``max_steps`` or ``stop_step``: reports, validations and checkpoints on the way and at the end.

        Raises:
            Stopped: SIGTERM or Ctrl-C came; the run was saved after the step in hand.
            TrainingError: gradients stay not finite, or a checkpoint cannot be written.
            PictureError: no usable picture is left.
        """
        is_main, driven = self.accelerator.is_main_process, self.config.run
        last_step = min(self.config.optimiser.max_steps, driven.stop_step or self.config.optimiser.max_steps)
        self.output.mkdir(parents=True, exist_ok=True)
        tracker = Tracker(self.output, self.config.name, to_json(self.config), self.step, is_main=is_main)
        recent = _Recent(self.batch_size)
        batches = self._batches()
        try:
            with _noticed_signals() as received:
                if self.step == 0:
                    self.validate(tracker)
                while self.step < last_step:
                    recent.add(self.train_step(next(batches)))
                    is_last = self.step == last_step
                    if is_last or self.step % driven.log_every == 0:
                        values = self._mean_over_processes(recent.take())
                        tracker.write(self.step, values)
                        if report is not None and is_main:
                            report(StepReport(self.step, last_step, values))
                    if is_last or (self.validate_every and self.step % self.validate_every == 0):
                        self.validate(tracker)
                    signal_number = int(self._largest(received[0] if received else 0))  # the same in all processes
                    if is_last or signal_number or self.step % driven.checkpoint_every == 0:
                        self._save_unless_broken()
                    if signal_number and not is_last:
                        raise Stopped(self.step, signal_number)
        finally:
            batches.close()
            tracker.close()

    def _save_unless_broken(self) -> None:
        """Leave the checkpoint out while updates are skipped: going on from it would meet the same weights again."""
        if any(self._num_skipped.values()):
            kept = checkpoint_paths(self.output)
            rest = f"{kept[-1].name} stays" if kept else "there is no earlier one"
            _LOGGER.warning("step %d: no checkpoint, as the last updates were not finite; %s", self.step, rest)
        else:
            self.save()

    def save(self) -> None:
        """Write a checkpoint; the processes wait for the one that writes.

        Raises:
            TrainingError: it cannot be written.
        """
        failure = ""
        if self.accelerator.is_main_process:
            try:
                save_checkpoint(self.state(), self.output, self.config.run.keep_checkpoints)
            except TrainingError as error:
                failure = str(error)
        if self._largest(float(bool(failure))):
            raise TrainingError(failure or f"step {self.step}: the first process could not write the checkpoint")

    def resume(self, *, accept_changes: bool = False) -> None:
        """Go on from the newest checkpoint of the output folder.

        Args:
            accept_changes: also with another configuration, as long as networks and kind of optimiser are the same.

        Raises:
            ModelError: there is no checkpoint, or a damaged one.
            OptionError: the run was started with another configuration; its fields are named.
        """
        state = load_checkpoint(self.output, self.kind)
        now = self.config, self.batch_size, self.base_fingerprint, self.pictures
        for line in require_same_run(state, *now, accept_changes=accept_changes):
            _LOGGER.info("changed: %s", line)
        self.load(state)
        for name, optimiser in self.optimisers.items():
            if name in state.optimisers:
                optimiser.load_state_dict(state.optimisers[name])
            for group in optimiser.param_groups:  # the moments are the checkpoint's, the settings this run's
                group.update(self._optimiser_settings())
        self.step = state.step

    def _add_optimiser(self, name: str, module: nn.Module, rate: float) -> None:
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        make = Muon if self.config.optimiser.kind == "muon" else torch.optim.AdamW
        self.optimisers[name] = make(trained, lr=rate, **self._optimiser_settings())

    def _optimiser_settings(self) -> dict[str, Any]:
        settings = self.config.optimiser
        shared = {"betas": settings.betas, "eps": settings.eps, "weight_decay": settings.weight_decay}
        return {**shared, "momentum": settings.momentum} if settings.kind == "muon" else shared

    def _spread(self, module: nn.Module) -> nn.Module:
        """Wrap a network whose gradients several processes average; one process takes it as it is."""
        if self.accelerator.num_processes == 1:  # nothing to wrap, for which accelerate would import much of torch
            return module
        wrapped: nn.Module = self.accelerator.prepare_model(module)
        return wrapped

    def _backward(self, loss: Tensor) -> None:
        (loss / self.config.data.accumulate).backward()

    def _gathering(self, wrapped: nn.Module, index: int) -> Any:
        """Accumulate a batch's passes: only the last one exchanges gradients between the processes."""
        return nullcontext() if index == self.config.data.accumulate - 1 else self.accelerator.no_sync(wrapped)

    def _update(self, name: str, module: nn.Module, loss: Tensor) -> Tensor:
        """Clip, check, step, clear; returns the gradients' norm before clipping.

        ``loss``: the loss that the gradients belong to. Both are checked on the device, which returns one flag.
        """
        optimiser, settings = self.optimisers[name], self.config.optimiser
        trained = [parameter for parameter in module.parameters() if parameter.grad is not None]
        norm = nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        # Gradients are the mean over all processes, and so is this loss: all of them decide alike.
        if bool(torch.isfinite(norm) & torch.isfinite(self.accelerator.reduce(loss.detach(), reduction="mean"))):
            optimiser.step()
            self._num_skipped[name] = 0
        else:
            skipped = self._num_skipped[name] = self._num_skipped.get(name, 0) + 1
            _LOGGER.warning("step %d: the %s's loss or gradients are not finite; it stays as it was", self.step, name)
            if skipped >= settings.max_skipped:
                lower = f"--set optimiser.learning_rate={settings.learning_rate / 2:.2g}"
                kept = checkpoint_paths(self.output)
                advice = f"go on from {kept[-1].name} with --resume --accept-changes {lower}" if kept else ""
                if len(kept) > 1:
                    advice += f", or, where that comes here again, remove it and go on from {kept[-2].name}"
                raise TrainingError(
                    f"step {self.step}: loss or gradients of the {name} are not finite {skipped} times in a row; "
                    f"{advice or f'start again with a lower rate, such as {lower}'}"
                )
        optimiser.zero_grad(set_to_none=True)
        return norm.detach()

    def _own_rows(self, batch_size: int) -> tuple[int, int]:
        """Return this process's rows of a batch over all processes."""
        size = batch_size // self.accelerator.num_processes
        return size * self.accelerator.process_index, size * (self.accelerator.process_index + 1)

    def _batches(self) -> Generator[list[Tensor], None, None]:
        """Yield this process's crops of each step from the present one on, as a list of accumulated batches."""
        data = self.config.data
        size = data.batch_size * self.accelerator.num_processes
        named: set[str] = set()
        crops = crop_batches(
            self.crops,
            first_step=self.step * data.accumulate,
            rows=range(*self._own_rows(size)),
            global_batch_size=size,
            num_workers=data.num_workers,
            pin_memory=self.device.type == "cuda",
        )
        try:
            while True:
                step: list[Tensor] = []
                for _ in range(data.accumulate):
                    batch = next(crops)
                    for name in batch.skipped:
                        if name not in named:
                            named.add(name)
                            _LOGGER.warning("skipped (%d so far): %s", len(named), name, extra=EVERY_PROCESS)
                    step.append(batch.pixels)
                yield step
        finally:
            crops.close()

    def _mean_over_processes(self, values: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(values)
        stacked = torch.stack([values[name].float().to(self.device) for name in names])
        means = self.accelerator.reduce(stacked, reduction="mean").tolist()
        rate = next(iter(self.optimisers.values())).param_groups[0]["lr"]
        return dict(zip(names, means, strict=True)) | {"learning_rate": rate}

    def _largest(self, value: float) -> float:
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.gather(torch.tensor([value], device=self.device)).max())


def make_accelerator(*, cpu: bool = False) -> Accelerator:
    """Find this run's processes and device, which ``accelerate launch`` and ``torchrun`` set in the environment."""
    for name, engine in _OTHER_ENGINES.items():
        if os.environ.get(name, "false").lower() in ("1", "true", "yes"):
            raise OptionError(
                f"accelerate's settings ask for {engine}, which s3diff train does not use; launch with "
                "--multi_gpu, or with torchrun"
            )
    # Buffers are equal in all processes from the start and stay so; nothing has to be sent. The precision is the
    # recipe's: what `accelerate config` wrote on this machine must not change a run's numbers.
    return Accelerator(
        cpu=cpu,
        mixed_precision="no",
        dynamo_backend="no",
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def step_generator(seed: int, step: int) -> torch.Generator:
    """Make the source of all random numbers of one step, on the CPU."""
    # Hashed, not added: neighbouring seeds would otherwise share the numbers of neighbouring steps.
    digest = hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def add_means(values: dict[str, Tensor], losses: Mapping[str, Tensor], count: int) -> None:
    """Add each loss's share of a mean over ``count`` accumulated batches, without its graph."""
    for name, loss in losses.items():
        share = loss.detach() / count
        values[name] = values[name] + share if name in values else share


class _Recent:
    """Average the scalars since the last report, on the device until they are taken."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self._started = time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._num_steps = 0

    def add(self, values: Mapping[str, Tensor]) -> None:
        self._num_steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, Tensor]:
        seconds = max(1e-9, time.monotonic() - self._started)
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        means["images_per_second"] = torch.tensor(self._num_steps * self._batch_size / seconds)
        self._clear()
        return means


@contextmanager
def _noticed_signals() -> Iterator[list[int]]:
    """Note SIGTERM or Ctrl-C instead of ending the process; a second one ends it as usual."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def notice(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for name in ("SIGINT", "SIGTERM"):
            number = int(getattr(signal, name))
            before[number] = signal.signal(number, notice)
    except ValueError:  # not the main thread, where Python allows no handlers
        before.clear()
    try:
        yield received
    finally:
        for noticed, handler in before.items():
            signal.signal(noticed, handler)
