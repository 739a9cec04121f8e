"""A picture's sizes are computed once and options are checked once, whichever door the picture comes through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from s3diff import RestoreOptions, Restorer
from s3diff.errors import PictureError
from s3diff.folders.picture_runners import LocalRunner
from s3diff.folders.plan import RestoreJob
from s3diff.folders.run_jobs import run_jobs
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import Picture, from_array
from s3diff.options import OutputOptions
from s3diff.restoration import finishing
from s3diff.restoration.sizes import Sizes, allowed_sizes, sizes_of
from s3diff.serving.limits import ServiceSettings
from s3diff.serving.service import RestorationService
from serving_pictures import photo


class Calls:
    """How often a result's size was computed and options were checked."""

    def __init__(self) -> None:
        self.num_sizes = self.num_checks = 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Calls]:
    counted, output_size, check = Calls(), RestoreOptions.output_size, RestoreOptions.__post_init__

    def counted_size(self: RestoreOptions, width: int, height: int) -> tuple[int, int]:
        counted.num_sizes += 1
        return output_size(self, width, height)

    def counted_check(self: RestoreOptions) -> None:
        counted.num_checks += 1
        check(self)

    monkeypatch.setattr(RestoreOptions, "output_size", counted_size)
    monkeypatch.setattr(RestoreOptions, "__post_init__", counted_check)
    return counted


def test_the_library_computes_a_size_once(small: Path, calls: Calls) -> None:
    restorer = Restorer.from_pretrained(small, device="cpu")
    clear = np.zeros((9, 12, 4), np.uint8)
    for options in (RestoreOptions(), RestoreOptions(scale=2, strength=0.5), RestoreOptions(size=(20, 20))):
        calls.num_sizes = calls.num_checks = 0
        restorer.check(options)
        restorer.restore(clear, options)
        assert (calls.num_sizes, calls.num_checks) == (1, 0)
    calls.num_sizes = 0
    restorer.restore_batch([clear, clear, clear[:5]], RestoreOptions(scale=2))
    assert calls.num_sizes == 3


def test_colours_are_float_until_they_are_rounded_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the file and the result no integers: a ramp finer than 16 bits survives to the last step."""
    restorer, rounded = Restorer.from_pretrained(small, device="cpu"), []
    round_colors = finishing.from_tensor

    def counted(image: torch.Tensor, like: Picture) -> np.ndarray:
        rounded.append(image)
        return round_colors(image, like)

    monkeypatch.setattr(finishing, "from_tensor", counted)
    clear = np.random.default_rng(0).integers(1, 255, (9, 12, 4), np.uint8)
    restorer.restore(clear, RestoreOptions(scale=2, strength=0.5))
    (image,) = rounded
    assert image.dtype == torch.float32
    away = (image * 65535 - (image * 65535).round()).abs()
    assert float(away.mean()) > 0.1, "values lie anywhere between the levels of 16 bits"


def test_a_folders_run_computes_a_size_once(small: Path, calls: Calls, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write_picture(from_array(np.zeros((8, 6, 3), np.uint8)), tmp_path / name)
    runner = LocalRunner(Restorer.from_pretrained(small, device="cpu"), RestoreOptions(scale=2), OutputOptions())
    jobs = [RestoreJob(tmp_path / name, tmp_path / f"restored-{name}") for name in ("a.png", "b.png")]
    assert [outcome.state for outcome in run_jobs(jobs, runner)] == ["done", "done"]
    assert (calls.num_sizes, calls.num_checks) == (2, 1)


def test_the_service_computes_a_size_once(small: Path, calls: Calls, tmp_path: Path) -> None:
    with RestorationService(ServiceSettings(models=[small], device="cpu", folder=tmp_path)) as service:
        options = RestoreOptions(scale=2)
        calls.num_sizes = calls.num_checks = 0
        status = service.submit(photo(30, 20), "a.png", options).wait(120)
        assert status.result is not None
        assert status.result.size == (60, 40)
        assert (calls.num_sizes, calls.num_checks) == (1, 0)


def test_sizes_of_every_step() -> None:
    options = RestoreOptions(size=(24, 24), size_mode="fill")
    assert sizes_of((12, 9), options) == Sizes((12, 9), working=(48, 36), uncut=(32, 24), output=(24, 24))
    assert sizes_of((12, 9), options).padded(16) == (48, 48)
    with pytest.raises(PictureError, match=r"a\.png would become 400 x 400 px, 0\.16 megapixels; at most 0\.1"):
        allowed_sizes((100, 100), RestoreOptions(max_output_pixels=100_000), "a.png")
