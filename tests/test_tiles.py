"""Tiles: their geometry, the release's own, and that a picture in tiles is the picture at once."""

from __future__ import annotations

import functools
import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from conftest import goldens_path, shared_path
from golden_models import tiny_model
from s3diff.checkpoints.model_folder import LoadedModel
from s3diff.errors import OptionError
from s3diff.images.color_match import match_color
from s3diff.images.files.provenance_xmp import statement_of, with_restoration
from s3diff.images.files.reading import read_picture
from s3diff.images.provenance import Provenance
from s3diff.images.resampling import enlarge, enlarge_region, mirrored_span, pad_to_multiple
from s3diff.networks import tiled_features
from s3diff.networks.autoencoder import Autoencoder, AutoencoderConfig
from s3diff.networks.modulated_lora import call_adapted, fold
from s3diff.networks.tiled_features import Recorded, TiledFeatures, released_statistics, whole_statistics
from s3diff.options import MIN_TILE_PX, ReleasedTiles, RestoreOptions
from s3diff.restoration import steps, tile_plan
from s3diff.restoration.regions import Canvas, estimate_in_tiles, tensor_reader
from s3diff.restoration.restorer import Restorer
from s3diff.restoration.tile_plan import LOCAL_TILE_PX, AutoencoderTiling, TilePlan, plan_tiles
from s3diff.restoration.tiled_stages import TiledStages
from s3diff.tiling import (
    HaloSpan,
    Span,
    blend_weights,
    blended_spans,
    halo_spans,
    released_autoencoder_boxes,
    released_blend_weights,
    released_latent_spans,
)

#: Release tiles of the goldens.
SMALL_RELEASED = ReleasedTiles(latent=16, latent_overlap=4, encoder_px=64, decoder=16)
ODD_RELEASED = ReleasedTiles(latent=20, latent_overlap=6)


@functools.cache
def golden(name: str) -> dict[str, Tensor]:
    with np.load(goldens_path(f"{name}.npz")) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    full = np.iinfo(one.dtype).max
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return math.inf if error == 0 else 10 * math.log10(full**2 / error)


# ---------------------------------------------------------------------------------------------- geometry


@given(length=st.integers(1, 3000), tile=st.integers(2, 300), data=st.data())
@settings(deadline=None)
def test_blended_tiles_cover_an_axis_with_weights_that_sum_to_one(length: int, tile: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, tile // 2))
    spans = blended_spans(length, tile, overlap)
    assert all(0 <= span.start < span.stop <= length and span.length <= tile for span in spans)
    assert len({span.length for span in spans}) == 1
    total = np.zeros(length)
    for span, weights in zip(spans, blend_weights(spans), strict=True):
        assert (weights > 0).all()
        total[slice(*span)] += weights
    assert np.allclose(total, 1)
    if len(spans) > 1:
        shared = [one.stop - other.start for one, other in itertools.pairwise(spans)]
        assert min(shared) >= overlap
        # One tile less would not do: the work is bounded by the tile's own share of overlap.
        assert (len(spans) - 1) * (tile - overlap) + overlap < length
        computed = sum(span.length for span in spans)
        assert computed / length <= 1 + (len(spans) - 1) * (overlap + 1) / length + len(spans) / length


@pytest.mark.parametrize("length", [128, 136, 184, 256, 272, 320, 512, 1024, 4096])
def test_the_unets_default_tiles_compute_at_most_a_third_twice(length: int) -> None:
    spans = blended_spans(length, 96, 12)
    assert (sum(span.length for span in spans) / length) ** 2 <= 1.35


@given(length=st.integers(1, 5000), halo=st.integers(0, 120), multiple=st.sampled_from([1, 2, 16, 64]), data=st.data())
@settings(deadline=None)
def test_tiles_with_a_halo_keep_every_position_once(length: int, halo: int, multiple: int, data: st.DataObject) -> None:
    least = 2 * -(-halo // multiple) * multiple + multiple
    tile = data.draw(st.integers(least, least + 2000))
    spans = halo_spans(length, tile, halo, multiple)
    assert [span.kept.start for span in spans] == [0, *(span.kept.stop for span in spans[:-1])]
    assert spans[-1].kept.stop == length
    for span in spans:
        assert 0 <= span.read.start <= span.kept.start < span.kept.stop <= span.read.stop <= length
        assert span.read.length <= tile
        assert span.kept.start % multiple == span.read.start % multiple == 0
        assert span.read.start == 0 or span.kept.start - span.read.start >= halo
        assert span.read.stop == length or span.read.stop - span.kept.stop >= halo


def test_tiles_without_room_are_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        halo_spans(1000, 60, 32, 16)
    with pytest.raises(ValueError, match="at most half"):
        blended_spans(100, 10, 6)


@pytest.mark.parametrize("size", [(1, 1), (8192, 8192), (1100, 1024), (64, 100_000), (2048, 1536), (20_000, 15_000)])
def test_the_default_plan_of_a_local_model_computes_at_most_a_third_twice(size: tuple[int, int]) -> None:
    plan = TilePlan(height=size[0], width=size[1], multiple=16, is_local=True, tile_px=LOCAL_TILE_PX)
    kept = sum(rows.kept.length * columns.kept.length for rows, columns in plan.regions)
    read = sum(rows.read.length * columns.read.length for rows, columns in plan.regions)
    assert kept == size[0] * size[1]
    assert read <= 1.35 * kept
    assert plan.num_regions == len(plan.regions)


def test_the_plan_follows_the_options(local_model: LoadedModel) -> None:
    config, device = local_model.config, torch.device("cpu")

    def plan(tile: object, side: int = 4096) -> TilePlan:
        return plan_tiles(config, side, side, RestoreOptions(tile=tile), device, torch.float32)  # type: ignore[arg-type]

    assert plan("off").is_whole
    assert plan(512).tile_px == 512
    assert plan(4096).is_whole
    assert plan("auto", 256).is_whole
    smaller = plan(1024).smaller()
    assert smaller is not None
    assert smaller.tile_px == 512
    assert plan("off", 256).smaller() is None


@pytest.mark.parametrize("tile", [0, MIN_TILE_PX - 1, "large", 300.5, True, None])
def test_tiles_that_cannot_be(tile: object) -> None:
    with pytest.raises(OptionError, match="give auto, off, or a side of at least 256 px"):
        RestoreOptions(tile=tile)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------- the release's


def test_the_releases_latent_tiles() -> None:
    for name, expected in json.loads(goldens_path("latent_tile_grids.json").read_text()).items():
        size, tile, overlap = name.split("_")
        height, width = map(int, size.split("x"))
        tiles = ReleasedTiles(latent=int(tile), latent_overlap=int(overlap))
        found = released_latent_spans(height, width, tiles)
        if expected is None:  # the release never ends here
            covered = np.zeros((height, width), bool)
            for rows, columns in found:
                covered[slice(*rows), slice(*columns)] = True
            assert covered.all()
        else:
            assert [[rows.start, columns.start] for rows, columns in found] == expected


def test_the_releases_autoencoder_tiles() -> None:
    for name, expected in json.loads(goldens_path("vaehook_boxes.json").read_text()).items():
        kind, size, tile = name.split("_")
        height, width = map(int, size.split("x"))
        padding, factor = (32, 1 / 8) if kind == "enc" else (11, 8)
        found = released_autoencoder_boxes(height, width, int(tile[1:]), padding, factor)
        if not expected["tiled"]:
            assert found is None
            continue
        assert found is not None
        flat = [[[*columns, *rows] for rows, columns in (box.read, box.written)] for box in found]
        assert flat == expected["in_out"]


def test_the_releases_blend_weights() -> None:
    with np.load(goldens_path("gaussian_tile_weights.npz")) as weights:
        for name in weights.files:
            found = released_blend_weights(int(name.removeprefix("w_")))
            assert np.allclose(found, weights[name], rtol=1e-12, atol=0)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return tiny_model()


def released_walk(
    model: LoadedModel, tiles: ReleasedTiles | None, name: str = "case_tiled_mode"
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The stages on the golden's picture, under the release's tiles."""
    case = golden(name)
    low_quality = case["lr_u8"].permute(2, 0, 1)[None].float() / 255
    base = enlarge(low_quality, 240, 336)
    image = pad_to_multiple(base * 2 - 1, 64)
    generator = model.generator
    with torch.inference_mode():
        for_encoder, for_unet = generator.conditioning(case["deg_score"])
        encoder = fold(generator.autoencoder.encoder.lora_weights(), for_encoder)
        unet = fold(generator.unet.lora_weights(), for_unet)
        plan = TilePlan(height=256, width=384, multiple=64, is_local=False, released=tiles)
        stages = TiledStages(generator, plan)
        latent = stages.encode(image, encoder, case.get("noise"))
        prompts = (model.prompts.positive[None], model.prompts.negative[None])
        prediction = stages.predict_guided(latent, *prompts, 1.07, unet)
        clean = model.config.schedule.clean_latent(latent, prediction)
        output = stages.decode(clean, image)
    return {"lq_latent": latent, "model_pred": prediction, "x_denoised": clean, "output": output}, (encoder, unet)


def assert_within_floor(found: Tensor, expected: Tensor, case: str, key: str) -> None:
    floor = json.loads(goldens_path("fp32_noise_floor.json").read_text())[case][key]
    difference = (found - expected).abs()
    assert difference.max() <= 10 * floor["max_abs"]
    assert difference.mean() <= 5 * floor["mean_abs"]


def test_the_releases_tiled_pictures(model: LoadedModel) -> None:
    found, _ = released_walk(model, SMALL_RELEASED)
    for key, value in found.items():
        assert_within_floor(value, golden("case_tiled_mode")[key], "case_tiled_mode", key)


def test_the_releases_tiled_picture_with_a_sampled_latent(model: LoadedModel) -> None:
    case = golden("case_tiled_noise")
    found, _ = released_walk(model, SMALL_RELEASED, "case_tiled_noise")
    for key in ("lq_latent", "model_pred"):
        assert_within_floor(found[key], case[key], "case_tiled_noise", key)


def test_the_releases_tiles_of_another_size(model: LoadedModel) -> None:
    found, _ = released_walk(model, ODD_RELEASED)
    assert_within_floor(
        found["model_pred"], golden("case_tiled_odd_mode")["model_pred"], "case_tiled_odd_mode", "model_pred"
    )


def test_without_tiles_it_is_the_releases_untiled_picture(model: LoadedModel) -> None:
    found, _ = released_walk(model, None)
    for key in ("lq_latent", "model_pred"):
        assert_within_floor(found[key], golden("case_tiled_ref_untiled")[key], "case_tiled_mode", key)


# -------------------------------------------------------------------------------------- features in pieces


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled_features, "BAND_POSITIONS", 64 * 32)


@functools.cache
def autoencoder() -> Autoencoder:
    torch.manual_seed(5)
    config = AutoencoderConfig(block_out_channels=(16, 16, 32), norm_num_groups=8, lora_rank=2)
    return Autoencoder(config).eval().requires_grad_(False)


@torch.inference_mode()
def test_bands_are_the_whole_picture(small_bands: None) -> None:
    network = autoencoder()
    torch.manual_seed(6)
    folded = fold(network.encoder.lora_weights(), torch.randn(1, 5, 2, 2))
    image = torch.rand(2, 3, 124, 68) * 2 - 1
    in_bands = call_adapted(network.encoder, folded, TiledFeatures.in_bands(image, multiple=4))
    assert len(in_bands.pieces) > 3
    assert torch.allclose(in_bands.whole(), call_adapted(network.encoder, folded, image), atol=2e-5)
    features = torch.randn(1, 4, 43, 65)
    decoded = network.decoder(TiledFeatures.in_bands(features, multiple=1))
    assert len(decoded.pieces) == 2
    assert torch.allclose(decoded.whole(), network.decoder(features), atol=2e-5)


@torch.inference_mode()
def test_bands_enlarge_bilinearly_across_their_borders(small_bands: None) -> None:
    features = torch.rand(1, 2, 50, 64)
    found = F.interpolate(TiledFeatures.in_bands(features, multiple=1), scale_factor=2.0, mode="bilinear")
    assert torch.allclose(found.whole(), F.interpolate(features, scale_factor=2.0, mode="bilinear"), atol=1e-6)


def test_statistics_of_pieces() -> None:
    torch.manual_seed(7)
    whole = torch.randn(2, 4, 90) + torch.arange(90) / 30
    pieces = [whole[..., :20], whole[..., 20:]]
    mean, variance = whole_statistics(iter(pieces))
    assert torch.allclose(mean, whole.mean(2, keepdim=True), atol=1e-6)
    assert torch.allclose(variance, whole.var(2, correction=0, keepdim=True), atol=1e-6)
    assert (released_statistics(iter(pieces))[1] < variance).all()  # what the release leaves out


@torch.inference_mode()
def test_recorded_statistics_are_used_again() -> None:
    network = autoencoder()
    features = torch.randn(1, 4, 16, 16)
    recorded = Recorded(whole_statistics)
    network.decoder(TiledFeatures.independent([features], recorded))
    again = network.decoder(TiledFeatures.independent([features], recorded.replay())).values()[0]
    assert torch.allclose(again, network.decoder(features), atol=2e-5)


def test_what_is_not_defined_in_pieces_is_refused() -> None:
    features = TiledFeatures.independent([torch.zeros(1, 2, 4, 4)], whole_statistics)
    with pytest.raises(NotImplementedError, match="not defined for features in tiles"):
        torch.softmax(features, dim=1)  # type: ignore[call-overload]
    with pytest.raises(NotImplementedError, match="whole factor"):
        F.interpolate(features, size=(3, 3))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- regions


@given(data=st.data(), mode=st.sampled_from(["bilinear", "bicubic"]))
@settings(deadline=None, max_examples=60)
def test_a_region_is_a_crop_of_the_enlarged_picture(data: st.DataObject, mode: str) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    size = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    spans = []
    for length in size:
        start = data.draw(st.integers(0, length - 1))
        spans.append(Span(start, data.draw(st.integers(start + 1, length))))
    picture = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 41 + width))
    part = enlarge_region(tensor_reader(picture), (height, width), size, *spans, mode=mode)  # type: ignore[arg-type]
    whole = enlarge(picture, *size, mode=mode)  # type: ignore[arg-type]
    assert torch.allclose(part, whole[:, :, slice(*spans[0]), slice(*spans[1])], atol=1e-4)


@given(side=st.integers(1, 20), multiple=st.sampled_from([1, 16, 64]), data=st.data())
@settings(deadline=None)
def test_the_mirrored_edge_part_by_part(side: int, multiple: int, data: st.DataObject) -> None:
    padded = pad_to_multiple(torch.arange(side).view(1, 1, 1, side), multiple)[0, 0, 0]
    start = data.draw(st.integers(0, len(padded) - 1))
    span = Span(start, data.draw(st.integers(start + 1, len(padded))))
    needed, index = mirrored_span(side, span)
    assert torch.equal(torch.arange(side)[slice(*needed)][index], padded[slice(*span)])


@torch.inference_mode()
def test_the_estimate_in_tiles(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3diff.restoration.regions.ESTIMATE_TILE_PX", 64)
    estimator = model.generator.estimator
    picture = torch.rand(1, 3, 75, 131)
    found = estimate_in_tiles(estimator, tensor_reader(picture), (75, 131), torch.device("cpu"))
    assert torch.allclose(found, estimator(picture), atol=1e-6)


@pytest.mark.parametrize("how", ["wavelet", "adain", "none"])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("in_grey", [False, True])
def test_the_canvas_rounds_as_the_whole_picture_does(how: str, depth: type, in_grey: bool) -> None:
    torch.manual_seed(8)
    result, base = torch.rand(1, 3, 150, 130), torch.rand(1, 3, 150, 130) * 0.7
    canvas = Canvas((150, 130), np.dtype(depth), how, in_grey=in_grey)  # type: ignore[arg-type]
    for rows in halo_spans(150, 100, 32):
        for columns in halo_spans(130, 90, 32):
            part = (..., slice(*rows.read), slice(*columns.read))
            canvas.write(result[part], base[part], rows, columns)
    expected = match_color(result, base, how)[0].clamp(0, 1)  # type: ignore[arg-type]
    assert canvas.chroma() == pytest.approx(float((expected - expected.mean(0)).abs().mean()), abs=0.002)
    expected = expected.mean(0, keepdim=True) if in_grey else expected
    levels = (expected * np.iinfo(depth).max).round().permute(1, 2, 0).numpy()
    assert np.abs(canvas.finished(in_grey=in_grey).astype(float) - levels).max() <= (1 if depth is np.uint8 else 3)


# ---------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def local_model(compact: Restorer) -> LoadedModel:
    return compact.model


def test_compact_in_tiles_is_compact_at_once(compact: Restorer) -> None:
    picture = np.random.default_rng(9).integers(0, 256, (67, 181, 3), dtype=np.uint8)
    picture[:, 60:] = np.linspace(0, 255, 121, dtype=np.uint8)[None, :, None]
    whole = compact.restore(picture, RestoreOptions(tile="off")).array
    told = []
    tiled = compact.restore(picture, RestoreOptions(tile=400), progress=lambda *step: told.append(step)).array
    assert psnr(tiled, whole) >= 50
    assert told[-1][0] == "tiles"
    assert told[-1][1] == told[-1][2] > 3


def test_compact_in_tiles_on_a_photograph(compact: Restorer) -> None:
    photo = read_picture(shared_path("data/benchmarks/set14") / "img_001.png").pixels[:115, :143]
    whole = compact.restore(photo, RestoreOptions(tile="off")).array
    tiled = compact.restore(photo, RestoreOptions(tile=384)).array
    assert psnr(tiled, whole) >= 50


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 3), (9, 7)])
def test_any_size_in_tiles(compact: Restorer, size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 90, np.uint8)
    restored = compact.restore(picture, RestoreOptions(tile=384))
    assert restored.array.shape == (4 * size[0], 4 * size[1], 3)
    assert np.abs(restored.array.astype(int) - 90).max() <= 6


@pytest.mark.parametrize("how", ["adain", "none"])
def test_tiles_with_other_colour_matching_alpha_grey_and_scale(restorer: Restorer, how: str) -> None:
    generator = np.random.default_rng(10)
    smooth = np.linspace(20, 230, 150)[None, :] * np.linspace(0.5, 1, 75)[:, None]
    picture = (smooth[..., None] + generator.normal(0, 2, (75, 150, 4))).clip(0, 255).astype(np.uint8)
    options = RestoreOptions(color_match=how, scale=3.3, tile="off")  # type: ignore[arg-type]
    for pixels in (picture, picture[..., 0]):
        whole = restorer.restore(pixels, options)
        tiled = restorer.restore(pixels, RestoreOptions(color_match=how, scale=3.3, tile=400))  # type: ignore[arg-type]
        assert psnr(tiled.array, whole.array) >= 50
        if whole.picture.alpha is not None:
            assert tiled.picture.alpha is not None
            assert psnr(tiled.picture.alpha, whole.picture.alpha) >= 50


def test_a_sampled_latent_is_the_same_in_tiles(restorer: Restorer) -> None:
    picture = np.full((64, 160, 3), 120, np.uint8)
    options = {"latent": "sample", "seed": 4}
    whole = restorer.restore(picture, RestoreOptions(tile="off", **options))  # type: ignore[arg-type]
    tiled = restorer.restore(picture, RestoreOptions(tile=400, **options))  # type: ignore[arg-type]
    assert psnr(tiled.array, whole.array) >= 50


def test_the_autoencoder_in_bands_is_exact_and_in_tiles_near(model: LoadedModel, small_bands: None) -> None:
    """In tiles attention sees a tile alone and the statistics are a sample's: with random weights that is 20 dB."""
    found, (encoder, _) = released_walk(model, None)
    case = golden("case_tiled_mode")
    image = pad_to_multiple(enlarge(case["lr_u8"].permute(2, 0, 1)[None].float() / 255, 240, 336) * 2 - 1, 64)

    @torch.inference_mode()
    def stages(tiling: AutoencoderTiling) -> tuple[Tensor, Tensor]:
        plan = TilePlan(height=256, width=384, multiple=64, is_local=False, autoencoder=tiling, tile_px=192)
        tiled = TiledStages(model.generator, plan)
        return tiled.encode(image, encoder), tiled.decode(found["x_denoised"], image)

    latent, output = stages("bands")
    assert_within_floor(latent, found["lq_latent"], "case_tiled_mode", "lq_latent")
    assert_within_floor(output, found["output"], "case_tiled_mode", "output")
    _, near = stages("tiles")
    assert 20 < 10 * math.log10(4 / float((near - found["output"]).square().mean())) < 60


def test_when_memory_runs_out_the_tiles_become_smaller(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.full((130, 130, 3), 120, np.uint8)
    walk, tried = steps.walk, []

    def limited(model: object, read: object, sizes: object, options: object, plan: TilePlan, **rest: object) -> object:
        tried.append(plan.tile_px)
        if plan.tile_px is None or plan.tile_px > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return walk(model, read, sizes, options, plan, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(steps, "walk", limited)
    restored = restorer.restore(picture, RestoreOptions(tile="off"))
    assert tried == [None, 384]
    assert restored.notes == ("memory ran out; restored in tiles of 384 px",)


def test_a_tiled_result_of_a_model_that_is_not_local_states_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    restorer = Restorer(tiny_model(), device="cpu")
    picture = np.random.default_rng(2).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    monkeypatch.setattr(tile_plan, "UNET_TILE", 48)  # 384 px of the output's 400

    def made(**options: Any) -> tuple[Provenance, np.ndarray]:
        restored = restorer.restore(picture, **options)
        assert restored.provenance is not None
        return restored.provenance, restored.array

    whole, _ = made()
    assert (whole.options.tile, whole.tiles) == ("auto", "UNet 384, autoencoder whole")
    assert statement_of(with_restoration(None, whole)[0]).restorations == (whole,)
    monkeypatch.setattr(tile_plan, "free_bytes", lambda _: 0)
    tiled, pixels = made()
    assert (tiled.options.tile, tiled.tiles) == (384, "")
    again, same = made(tile=tiled.options.tile)
    assert again == tiled
    assert np.array_equal(same, pixels)


def test_tiles_of_one_picture_keep_what_they_own() -> None:
    span = HaloSpan(Span(10, 50), Span(20, 40))
    assert span.kept_in_read == slice(10, 30)
