"""Remember how long pictures took on this machine, to predict the next one's time."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s3diff.atomic_write import write_atomically
from s3diff.errors import OutputError
from s3diff.options import RestoreOptions
from s3diff.user_folders import state_folder

if TYPE_CHECKING:
    from s3diff.restoration.device_model import DeviceModel

#: The stage with a fixed time.
_FIXED = "fold"
#: Fixed work of every picture, as a number of pixels: reading, estimating, colours. By the seconds of nine pictures
#: of 256 x 256 to 960 x 720 px (`compact`, two cores): 1.9 s, and 20 s for a million pixels.
EACH_PIXELS = 100_000
#: Weight of earlier measurements against a new picture.
_KEPT = 0.7


class Speeds:
    """Keep seconds and megapixels of earlier pictures, by model, device and settings; large pictures weigh more.

    A file that cannot be read counts as empty; failures to write are ignored: nothing depends on it.

    Args:
        path: the file; None for ``speed.json`` in s3diff's state folder.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = state_folder() / "speed.json" if path is None else path
        self._measured: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text("utf-8"))
            items = found.items() if isinstance(found, dict) else ()
            self._measured = {key: value for key, value in items if _is_entry(value)}

    def expected(self, key: str, num_pixels: int) -> dict[str, float] | None:
        """Estimate the seconds of each stage of a picture; None without measurements.

        Args:
            key: from :func:`speed_key`.
        """
        entry = self._measured.get(key)
        if entry is None:
            return None
        each = EACH_PIXELS / 1e6
        factor = (num_pixels / 1e6 + each) / (entry["megapixels"] + each * entry["pictures"])
        return {
            stage: seconds / entry["pictures"] if stage == _FIXED else seconds * factor
            for stage, seconds in entry["seconds"].items()
        }

    def add(self, key: str, num_pixels: int, seconds: Mapping[str, float]) -> None:
        """Add a picture's ``Result.seconds``."""
        old = self._measured.get(key, {"pictures": 0.0, "megapixels": 0.0, "seconds": {}})
        stages = [stage for stage in seconds if stage != "total"]
        self._measured[key] = {
            "pictures": _KEPT * old["pictures"] + 1,
            "megapixels": _KEPT * old["megapixels"] + num_pixels / 1e6,
            "seconds": {stage: _KEPT * old["seconds"].get(stage, 0.0) + seconds[stage] for stage in stages},
        }

    def save(self) -> None:
        """Write the file; failures are ignored."""
        with suppress(OSError, OutputError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(json.dumps(self._measured, indent=1).encode(), self._path, True)


def speed_key(model: DeviceModel, options: RestoreOptions) -> str:
    """Name model, device and settings, which decide the speed for a given size."""
    import torch

    on_cpu = model.device.type == "cpu"
    device = f"{platform.machine()} {torch.get_num_threads()} threads" if on_cpu else str(model.device)
    if model.backend != "torch":
        device += f", {model.backend}"
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    passes = "one prompt" if options.guidance == 1 else "two prompts"
    compiled = ", compiled" if model.acceleration.compiled else ""
    decoder = ", tiny decoder" if options.decoder == "tiny" else ""
    return f"{model.model.fingerprint[:23]}, {device}, {model.precision}, {passes}{compiled}{decoder}"


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("seconds"), dict):
        return False
    numbers = [value.get("pictures"), value.get("megapixels"), *value["seconds"].values()]
    is_plain = all(isinstance(number, int | float) and number >= 0 for number in numbers)
    return is_plain and value["pictures"] > 0 and value["megapixels"] > 0
