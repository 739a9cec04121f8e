"""NIQE by published figures and a written-out twin, FID by scipy, and what is said where weights are missing."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import convolve
from scipy.special import gamma

from conftest import shared_path
from s3diff.errors import MissingExtraError, ModelError, OptionError, PictureError
from s3diff.evaluation import perceptual_weights
from s3diff.evaluation.fid import InceptionFeatures, features_of, frechet_distance
from s3diff.evaluation.iqa_extra import NoReferenceMeasure
from s3diff.evaluation.niqe import NIQE, NUM_FEATURES
from s3diff.evaluation.perceptual_weights import load_perceptual_weights, prepare_inception_weights
from s3diff.evaluation.psnr_ssim import luma, psnr_rgb, psnr_y, ssim_rgb
from s3diff.images.files.reading import read_picture
from s3diff.images.picture import to_tensor

#: Two of the 17; the first has the largest difference of all from the published NIQE, 0.0039.
PUBLISHED_NAMES = ("drealsr_panasonic_145_x1.png", "realsr_Nikon_013_LR4.png")


def random_images(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def made_up_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(NUM_FEATURES, NUM_FEATURES, generator=generator, dtype=torch.float64)
    return {
        "mean": torch.randn(NUM_FEATURES, generator=generator, dtype=torch.float64),
        "covariance": factor @ factor.T + torch.eye(NUM_FEATURES, dtype=torch.float64),
    }


# --- NIQE -------------------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_published_niqe_is_met() -> None:
    """To two decimals; the published figures were computed in float32."""
    folder = shared_path("data/realsr_pairs")
    try:
        measure = NIQE()
    except MissingExtraError as error:
        pytest.skip(str(error))
    with open(folder / "osediff_metrics.csv", newline="") as file:
        published = {row["name"]: float(row["NIQE"]) for row in csv.DictReader(file)}
    for name in PUBLISHED_NAMES:
        value = measure(to_tensor(read_picture(folder / "osediff" / name))).item()
        assert value == pytest.approx(published[name], abs=0.005)


def shape_and_scales(values: np.ndarray) -> tuple[float, float, float]:
    """The asymmetric generalised Gaussian by trying every shape: the readable twin."""
    left, right = (np.sqrt((values[mask] ** 2).mean()) for mask in (values < 0, values > 0))
    ratio = left / right
    wanted = np.abs(values).mean() ** 2 / (values**2).mean() * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    tried = np.arange(0.2, 10.0005, 0.001)
    moments = gamma(2 / tried) ** 2 / (gamma(1 / tried) * gamma(3 / tried))
    shape = tried[np.argmin(np.abs(moments - wanted))]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def reduced_by_half(plane: np.ndarray) -> np.ndarray:
    """The cubic kernel (a = -0.5) stretched twice: 8 taps, the edge mirrored with itself repeated."""
    distance = np.abs((np.arange(8) - 3.5) / 2)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()
    for _ in range(2):
        padded = np.pad(plane, ((4, 4), (0, 0)), mode="symmetric")
        plane = np.stack([taps @ padded[2 * i + 1 : 2 * i + 9] for i in range(plane.shape[0] // 2)]).T
    return plane


def written_out_niqe(image: torch.Tensor, luma_weights: np.ndarray, offset: float, weights: dict) -> float:
    plane = np.round((image[0].double().permute(1, 2, 0).numpy() @ luma_weights) + offset)
    line = np.exp(-((np.arange(7) - 3) ** 2) / (2 * (7 / 6) ** 2))
    window = np.outer(line, line) / line.sum() ** 2
    sizes = []
    for block in (96, 48):
        mean = convolve(plane, window, mode="nearest")
        deviation = np.sqrt(np.abs(convolve(plane**2, window, mode="nearest") - mean**2))
        normal = (plane - mean) / (deviation + 1)
        rows = []
        for x in range(0, plane.shape[1], block):
            for y in range(0, plane.shape[0], block):
                part = normal[y : y + block, x : x + block]
                shape, left, right = shape_and_scales(part)
                row = [shape, (left + right) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    shape, left, right = shape_and_scales(part * np.roll(part, shift, axis=(0, 1)))
                    row += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
                rows.append(row)
        sizes.append(np.array(rows))
        plane = reduced_by_half(plane)
    features = np.concatenate(sizes, axis=1)
    between = weights["mean"].numpy() - features.mean(axis=0)
    middle = np.linalg.pinv((weights["covariance"].numpy() + np.cov(features, rowvar=False)) / 2)
    return float(np.sqrt(between @ middle @ between))


@pytest.mark.parametrize(
    ("kind", "luma_weights", "offset"),
    [("yiq", np.array([0.299, 0.587, 0.114]) * 255, 0.0), ("bt601", np.array([65.481, 128.553, 24.966]), 16.0)],
)
def test_niqe_equals_its_written_out_twin(kind: str, luma_weights: np.ndarray, offset: float) -> None:
    """Batched, on a size that is no multiple of the block."""
    images, weights = random_images(1, 2, 3, 200, 110), made_up_weights()
    found = NIQE(kind, weights)(images)  # type: ignore[arg-type]
    for i in range(2):
        wanted = written_out_niqe(images[i : i + 1, :, :192, :96], luma_weights, offset, weights)
        assert found[i].item() == pytest.approx(wanted, rel=1e-6)


def test_niqe_errors_name_what_is_wrong() -> None:
    measure = NIQE(weights=made_up_weights())
    with pytest.raises(PictureError, match="191 x 96 pixels; give at least two whole blocks"):
        measure(torch.zeros(1, 3, 96, 191))
    with pytest.raises(PictureError, match="flat nearly everywhere"):
        measure(torch.zeros(1, 3, 192, 96))
    with pytest.raises(PictureError, match=r"\[B, 3, H, W\]"):
        measure(torch.zeros(1, 1, 192, 96))
    with pytest.raises(OptionError, match="yiq, bt601"):
        NIQE("rgb", made_up_weights())  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="do not fit NIQE"):
        NIQE(weights={"mean": torch.zeros(3)})


def test_pristine_parameters_are_those_of_the_package() -> None:
    try:
        weights = load_perceptual_weights("niqe")
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert torch.linalg.eigvalsh(weights["covariance"]).min() > -1e-12
    assert weights["mean"][0].item() == pytest.approx(2.6, abs=0.5)  # the shape of pristine pixels: near a Gaussian's 2


# --- PSNR and SSIM on RGB, and the border -----------------------------------------------------------------------------


def test_rgb_measures_and_the_border() -> None:
    truth = random_images(2, 2, 3, 24, 20) * 0.5
    result = truth.clone()
    result[:, :, :4] += 0.3
    result[..., -4:] += 0.2
    assert psnr_rgb(result, truth, border_px=4).tolist() == pytest.approx([80, 80])
    assert psnr_y(result, truth, border_px=4).tolist() == pytest.approx([80, 80])
    assert ssim_rgb(result, truth, border_px=4).tolist() == pytest.approx([1, 1])
    assert psnr_rgb(truth + 0.1, truth).tolist() == pytest.approx([20, 20], abs=1e-4)
    assert ssim_rgb(result, truth)[0] < 0.99
    with pytest.raises(PictureError, match="more than 24 pixels"):
        psnr_rgb(result, truth, border_px=12)
    grey = random_images(3, 1, 1, 16, 16).expand(-1, 3, -1, -1)
    darker = grey * 0.7
    scaled = [(luma(image) * 255 - 16) / 219 for image in (darker, grey)]  # three equal channels: back to the plane
    assert ssim_rgb(darker, grey).item() == pytest.approx(
        ssim_rgb(*(plane.expand(-1, 3, -1, -1) for plane in scaled)).item(), abs=1e-6
    )


# --- FID --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_results", "num_truths"), [(40, 30), (5, 7)])
def test_frechet_distance_equals_scipys(num_results: int, num_truths: int) -> None:
    """Also with fewer pictures than features, where the covariances are singular."""
    generator = torch.Generator().manual_seed(0)
    results = torch.randn(num_results, 12, generator=generator, dtype=torch.float64) * 2 + 1
    truths = torch.randn(num_truths, 12, generator=generator, dtype=torch.float64)
    one, other = np.cov(results.numpy(), rowvar=False), np.cov(truths.numpy(), rowvar=False)
    root = sqrtm(one @ other).real
    difference = results.numpy().mean(0) - truths.numpy().mean(0)
    wanted = difference @ difference + np.trace(one) + np.trace(other) - 2 * np.trace(root)
    assert frechet_distance(results, truths) == pytest.approx(wanted, rel=1e-5)
    assert frechet_distance(results, results) == pytest.approx(0, abs=1e-5)
    with pytest.raises(PictureError, match="at least two pictures"):
        frechet_distance(results[:1], truths)


def test_inception_has_the_published_layout(tmp_path: Path) -> None:
    """470 tensors, 21.8 million parameters and the features' length, on weights that were never trained."""
    with torch.device("meta"):
        empty = InceptionFeatures.__new__(InceptionFeatures)
        torch.nn.Module.__init__(empty)
        empty._build()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in empty.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator) * 0.05
        weights[name] = drawn.abs() + 0.5 if name.endswith(("running_var", "bn.weight")) else drawn
    assert len(weights) == 470
    assert sum(tensor.numel() for tensor in empty.parameters()) == 21_785_568
    features = features_of([random_images(4, 1, 3, 40, 50), random_images(5, 1, 3, 60, 50)], InceptionFeatures(weights))
    assert features.shape == (2, 2048)
    assert features.isfinite().all()
    assert not torch.equal(features[0], features[1])
    with pytest.raises(ModelError, match="do not fit Inception"):
        InceptionFeatures({"x": torch.zeros(1)})


def test_missing_inception_weights_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DIFF_CACHE", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"pt_inception-2015-12-05-6726825d\.pth .* --inception"):
        InceptionFeatures()
    with pytest.raises(ModelError, match="cannot be read"):
        prepare_inception_weights(tmp_path / "none.pth")
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(ModelError, match="does not begin with 6726825d"):
        prepare_inception_weights(tmp_path / "other.pth")
    torch.save({"fc.weight": torch.zeros(2), "Conv2d_1a_3x3.conv.weight": torch.ones(1)}, tmp_path / "small.pth")
    digest = hashlib.sha256((tmp_path / "small.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(perceptual_weights, "_INCEPTION_SHA256_START", digest[:8])
    prepare_inception_weights(tmp_path / "small.pth")
    assert list(perceptual_weights.load_inception_weights()) == ["Conv2d_1a_3x3.conv.weight"]


# --- the optional extra -----------------------------------------------------------------------------------------------


def test_missing_pyiqa_is_one_line_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    remedy = r"pip install -c constraints\.txt \"\.\[iqa\]\""
    with pytest.raises(MissingExtraError, match=rf"musiq needs pyiqa.*non-commercial.*{remedy}"):
        NoReferenceMeasure("musiq", torch.device("cpu"))
