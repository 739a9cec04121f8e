"""Do the estimator's degrees rise with true blur and true noise, and is texture told from noise?

    python benchmarks/degrees.py PICTURES [--model compact] [--shared ../shared] [--json FILE] [--check]

Every one of PICTURES is blurred by Gaussians of several widths and reduced, or reduced and given Gaussian noise of
several strengths; then its degrees are estimated. Spearman's rank correlation *pooled* ranks all pictures and strengths
together, so that a picture that is soft by nature counts against it; *within* is the mean over pictures, each ranked by
itself. *Evenly* takes the blur in steps of half a pixel. Then, where the data beside the project are, the scenes of
``do_no_harm_set.py``, clean and as JPEG.
``--check`` ends with exit code 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch
from do_no_harm_set import defocused, scenes
from enlargers import reduced
from targets import Target, all_reached, at_least, at_most

from s3diff import Restorer
from s3diff.degradation.noise import gaussian_noise
from s3diff.errors import S3DiffError
from s3diff.images.files.reading import list_pictures, read_picture
from s3diff.images.picture import to_tensor

#: Standard deviations of the blur in pixels of the picture before it is reduced; real cameras of RealSR: 2 to 3.
BLUR_SIGMAS_PX = (0.2, 0.8, 1.4, 2.0, 2.6, 3.2, 3.8)
#: Standard deviations of the noise in levels of 255.
NOISE_SIGMAS = (0, 2, 5, 10, 15, 20, 25)
#: Blur whose degree has to rise evenly; each step's share of the whole rise, over an equal share.
EVEN_SIGMAS_PX = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
LEAST_STEP, LARGEST_STEP = 0.5, 2.0
#: The other targets: Spearman's correlation; the noise degree of clean texture and drawings; by how much a degree is
#: above its mean at JPEG quality 90 at quality 12.
SPEARMAN, TEXTURE_NOISE, JPEG_RISE = 0.9, 0.15, 0.3
TEXTURES, JPEG_KINDS = ("foliage", "cloth", "line art"), ("jpeg 90", "jpeg 60", "jpeg 30", "jpeg 12")


def degraded(picture: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two batches [strengths, 3, h, w] of reduced versions: blurred, first evenly, and noisy."""
    blurred = torch.cat([reduced(defocused(picture, sigma_px)) for sigma_px in (*EVEN_SIGMAS_PX, *BLUR_SIGMAS_PX)])
    sharp = reduced(picture).expand(len(NOISE_SIGMAS), -1, -1, -1)
    sigma = torch.tensor(NOISE_SIGMAS, dtype=torch.float32)
    noisy = sharp + gaussian_noise(sharp, sigma, torch.zeros(len(sigma), dtype=torch.bool), generator)
    return blurred, noisy.clamp(0, 1)


def spearman(first: torch.Tensor, second: torch.Tensor) -> float:
    """Rank correlation of two vectors; ties share their mean rank."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    spread = float(a.norm() * b.norm())
    return float(a @ b) / spread if spread else 0.0


def ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean rank of each value of a vector, from 0."""
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below.double() + (equal.double() - 1) / 2


def over_pictures(restorer: Restorer, pictures: Path) -> dict[str, Any]:
    """Correlations, and mean degrees by strength."""
    generator = torch.Generator().manual_seed(0)
    blur, noise = [], []
    for path in list_pictures(pictures):
        blurred, noisy = degraded(to_tensor(read_picture(path)), generator)
        blur.append(restorer.generator.estimator(blurred)[:, 0])
        noise.append(restorer.generator.estimator(noisy)[:, 1])
    found: dict[str, Any] = {"pictures": len(blur)}
    rising = torch.stack(blur)[:, len(EVEN_SIGMAS_PX) :]
    for name, strengths, degrees in (("blur", BLUR_SIGMAS_PX, rising), ("noise", NOISE_SIGMAS, torch.stack(noise))):
        true = torch.tensor(strengths)
        found[name] = {
            "pooled": spearman(true.repeat(len(degrees)), degrees.flatten()),
            "within": sum(spearman(true, row) for row in degrees) / len(degrees),
            "means": dict(zip(map(str, strengths), degrees.mean(0).tolist(), strict=True)),
        }
    even = torch.stack(blur)[:, : len(EVEN_SIGMAS_PX)].mean(0).tolist()
    found["evenly"] = dict(zip(map(str, EVEN_SIGMAS_PX), even, strict=True))
    return found


def over_scenes(restorer: Restorer, shared: Path) -> dict[str, Any]:
    """Noise degrees of clean scenes by category, and mean degrees of all scenes by JPEG quality."""
    clean: dict[str, list[float]] = {}
    compressed: dict[str, list[list[float]]] = {kind: [] for kind in JPEG_KINDS}
    for scene in scenes(shared):
        noise = float(restorer.generator.estimator(scene.degraded("clean"))[0, 1])
        clean.setdefault(scene.category, []).append(noise)
        for kind, rows in compressed.items():
            rows.append(restorer.generator.estimator(scene.degraded(kind))[0].tolist())
    by_quality = {
        kind: dict(zip(("blur", "noise"), torch.tensor(rows).mean(0).tolist(), strict=True))
        for kind, rows in compressed.items()
    }
    return {"clean_noise": clean, "jpeg": by_quality}


def targets(found: dict[str, Any]) -> list[Target]:
    """What is asked of the estimator."""
    asked = [at_least(f"Spearman, {name}, pooled", found[name]["pooled"], SPEARMAN) for name in ("blur", "noise")]
    means = [found["evenly"][str(sigma)] for sigma in EVEN_SIGMAS_PX]
    steps, rise = [after - before for before, after in itertools.pairwise(means)], means[-1] - means[0]
    shares = [len(steps) * step / rise if rise > 0 else 0.0 for step in steps]
    ends = f"{EVEN_SIGMAS_PX[0]:g} to {EVEN_SIGMAS_PX[-1]:g} px"
    asked.append(at_least(f"least step of the blur degree from {ends}, over an equal one", min(shares), LEAST_STEP))
    asked.append(at_most("largest step, over an equal one", max(shares), LARGEST_STEP))
    if "jpeg" not in found:  # without the scenes
        return asked
    for category in TEXTURES:
        noise = max(found["clean_noise"][category])
        asked.append(at_most(f"noise degree of clean {category}, the highest", noise, TEXTURE_NOISE))
    strong, mild = found["jpeg"][JPEG_KINDS[-1]], found["jpeg"][JPEG_KINDS[0]]
    raised = max(strong[name] - mild[name] for name in strong)
    asked.append(at_least("rise of a mean degree from JPEG quality 90 to 12", raised, JPEG_RISE))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", default="compact")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder that holds data/")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a target is missed")
    given = parser.parse_args()
    has_scenes = (given.shared / "data").is_dir()
    if given.check and not has_scenes:
        parser.error(f"--check needs the scenes, and there is no {given.shared / 'data'}; give --shared")
    try:
        restorer = Restorer.from_pretrained(given.model, device="cpu")
        with torch.inference_mode():
            found = over_pictures(restorer, given.pictures)
            if has_scenes:
                found |= over_scenes(restorer, given.shared)
    except S3DiffError as error:
        raise SystemExit(f"error: {error}") from error
    for name in ("blur", "noise"):
        means = "  ".join(f"{strength}: {value:.3f}" for strength, value in found[name]["means"].items())
        print(
            f"{name:6} Spearman pooled {found[name]['pooled']:.3f}, within {found[name]['within']:.3f}   means {means}"
        )
    print("evenly blur by px: " + "  ".join(f"{sigma}: {value:.3f}" for sigma, value in found["evenly"].items()))
    for category, degrees in found.get("clean_noise", {}).items():
        print(f"clean  {category:12} noise " + " ".join(f"{degree:.2f}" for degree in degrees))
    for kind, degrees in found.get("jpeg", {}).items():
        print(f"{kind:7} blur {degrees['blur']:.3f}  noise {degrees['noise']:.3f}")
    is_good = all_reached(targets(found))
    if given.json:
        report = {"model": restorer.model.fingerprint, **found}
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if given.check and not is_good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
