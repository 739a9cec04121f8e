"""Where a run's figures and pictures go: ``log.jsonl`` always, TensorBoard and Weights & Biases where installed."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

LOG_FILE = "log.jsonl"


class Tracker:
    """Writes the figures of the main process; in the others it does nothing.

    Args:
        output: folder of the run.
        name: the run's name.
        config: the configuration as JSON values.
        is_main: whether this process writes.
    """

    def __init__(self, output: Path, name: str, config: Mapping[str, Any], *, is_main: bool) -> None:
        self._log = open(output / LOG_FILE, "a", encoding="utf-8") if is_main else None  # noqa: SIM115
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
        """One line of figures."""
        if self._log is None:
            return
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(values), step=step)

    def write_picture(self, step: int, name: str, image: Tensor) -> None:
        """``image``: [3, H, W] in [0, 1]; its file is the caller's."""
        if self._board is not None:
            self._board.add_image(name, image, step)
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(image.permute(1, 2, 0).numpy())}, step=step)

    def close(self) -> None:
        """Flush and close everything."""
        if self._log is not None:
            self._log.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
