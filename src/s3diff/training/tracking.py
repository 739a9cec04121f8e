"""Record a run's figures and pictures: ``log.jsonl`` always, TensorBoard and Weights & Biases if installed."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from s3diff.atomic_write import write_atomically
from s3diff.json_lines import AppendedLines

LOG_FILE = "log.jsonl"
_STEP = re.compile(r'\{"step": (\d+),.*\}\n')


class Tracker:
    """Write the figures of the main process; do nothing in the others.

    Args:
        config: the configuration as JSON values.
        step: where the run begins; lines of the log from later steps are of a run that was killed, and go.
        is_main: whether this process writes.
    """

    def __init__(self, output: Path, name: str, config: Mapping[str, Any], step: int, *, is_main: bool) -> None:
        if is_main:
            _cut_log(output / LOG_FILE, step)
        self._log = AppendedLines(output / LOG_FILE) if is_main else None
        self._board: Any = None
        self._wandb: Any = None
        if not is_main:
            return
        if _is_installed("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(output / "tensorboard"))
        # Weights & Biases asks for an account on the terminal: only where one is set up or offline use is asked for.
        if _is_installed("wandb") and ("WANDB_API_KEY" in os.environ or "WANDB_MODE" in os.environ):
            import wandb

            self._wandb = wandb.init(project="s3diff", name=name, config=dict(config), dir=str(output), resume="allow")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._log is None:
            return
        figures = {key: value if math.isfinite(value) else None for key, value in values.items()}
        self._log.append([{"step": step, **figures}])
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def write_picture(self, step: int, name: str, image: Tensor) -> None:
        """Show ``image``, [3, H, W] in [0, 1]; its file is the caller's."""
        if self._board is not None:
            self._board.add_image(name, image, step)
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(image.permute(1, 2, 0).numpy())}, step=step)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _cut_log(path: Path, step: int) -> None:
    """Leave out lines of later steps; the file appears whole."""
    if not path.is_file():
        return
    lines = path.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if (found := _STEP.match(line)) and int(found[1]) <= step]
    if len(kept) < len(lines):
        write_atomically("".join(kept), path)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
