"""The judges of pictures: their set is the same every time, and their measures react to what they are named after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY, shared_path
from s3diff.degradation.jpeg import compress_jpeg
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.picture import to_tensor
from s3diff.images.resampling import resample

SCALE = 4


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts that import their neighbours."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")


@pytest.fixture
def texture() -> torch.Tensor:
    """[1, 3, 64, 64] of smooth random hills, like a reduced photograph."""
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return resample(coarse, 64, 64, "bicubic").clamp(0, 1)


def enlarged(image: torch.Tensor) -> torch.Tensor:
    return resample(image, SCALE * image.shape[2], SCALE * image.shape[3], "bicubic").clamp(0, 1)


def test_drawn_scenes_and_their_degradations_are_the_same_every_time() -> None:
    from do_no_harm_set import DEGRADATIONS, DRAWN, Scene

    from s3diff.images.picture import from_array, to_tensor

    for name in ("page", "cartoon"):
        first, again = (Scene("drawn", name, to_tensor(from_array(DRAWN[name]()))) for _ in range(2))
        assert first.is_grey == (name == "page")
        assert torch.equal(first.truth, again.truth)
        assert first.truth.shape == (1, 3, 512, 512)
        inputs = {kind: first.degraded(kind) for kind in DEGRADATIONS}
        for kind, image in inputs.items():
            assert torch.equal(image, again.degraded(kind))
            assert image.shape == (1, 3, 128, 128)
            assert torch.equal(image, (image * 255).round() / 255)
        if first.is_grey:
            assert all(torch.equal(image[:, 0], image[:, 2]) for image in inputs.values()), "grey inputs stay grey"
        else:
            assert len({image.numpy().tobytes() for image in inputs.values()}) == len(DEGRADATIONS)


@pytest.mark.shared
def test_the_set_has_every_kind_and_every_picture_it_names() -> None:
    from do_no_harm_set import SCENES, scenes

    found = list(scenes(shared_path("data").parent))
    assert {scene.category for scene in found} == set(SCENES)
    assert len({scene.name for scene in found}) == len(found) == 36
    assert all(side % SCALE == 0 for scene in found for side in scene.truth.shape[2:])
    assert {scene.category for scene in found if scene.is_grey} == {"grey text", "line art"}


def test_jpeg_raises_blockiness_and_a_moved_grid_does_not(texture: torch.Tensor) -> None:
    from picture_measures import blockiness

    clean, mild, strong = (
        blockiness(enlarged(image)) for image in (texture, compress_jpeg(texture, 60), compress_jpeg(texture, 8))
    )
    assert abs(clean) < 0.5
    assert strong > 3 > mild
    moved = enlarged(compress_jpeg(texture, 8)[..., 4:, 4:])
    assert blockiness(moved) < 0.3 * strong


def test_a_comb_of_the_inputs_period_is_told_from_sharpening(texture: torch.Tensor) -> None:
    from picture_measures import comb

    bicubic = enlarged(texture)
    upright = torch.tensor([0.02, 0, -0.02, 0]).repeat(64).expand_as(bicubic)
    sharper = bicubic + (bicubic - torch.nn.functional.avg_pool2d(bicubic, 5, 1, 2))
    noise = 0.02 * torch.randn(bicubic.shape, generator=torch.Generator().manual_seed(1))
    assert comb(bicubic + upright, bicubic) > 0.9
    assert comb(bicubic + upright.transpose(2, 3), bicubic) > 0.9
    assert comb(sharper, bicubic) < 0.1
    assert abs(comb(bicubic + noise, bicubic)) < 0.05
    assert comb(bicubic, bicubic) == 0


def test_grey_has_no_chroma_and_one_tinted_pixel_is_found(texture: torch.Tensor) -> None:
    from picture_measures import chroma

    grey = texture[:, :1].expand(1, 3, -1, -1).clone()
    assert chroma(grey) == (0, 0)
    grey[0, 2, 5, 5] += 16 / 255
    largest, mean = chroma(grey)
    assert largest == pytest.approx(16, abs=1e-3)
    assert mean == pytest.approx(16 / 64**2, rel=1e-3)


def test_softness_lowers_gradient_energy_and_slope(texture: torch.Tensor) -> None:
    from do_no_harm_set import defocused
    from picture_measures import gradient_energy, spectrum_slope

    noise = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    soft = defocused(noise, 2)
    assert gradient_energy(soft) < 0.1 * gradient_energy(noise)
    assert spectrum_slope(soft) < spectrum_slope(noise) - 5
    assert abs(spectrum_slope(noise)) < 1, "white noise has a flat spectrum"
    assert spectrum_slope(torch.full((1, 3, 128, 128), 0.5)) == pytest.approx(0, abs=0.1)


def test_a_picture_is_harmed_only_above_bicubic_on_clean_and_mild_inputs() -> None:
    from do_no_harm import harmed, means, targets

    def rows(*lpips: float) -> list[dict[str, object]]:
        kinds = ("clean", "jpeg 60", "jpeg 12")
        return [
            {"category": "sky", "scene": "a", "degradation": kind, "lpips": value, "kept": 30.0, "blockiness": 4.0}
            for kind, value in zip(kinds, lpips, strict=True)
        ]

    bicubic = rows(0.3, 0.4, 0.5)
    assert harmed(rows(0.309, 0.2, 0.9), bicubic) == []
    worse = harmed(rows(0.32, 0.45, 0.9), bicubic)
    assert [row["degradation"] for row in worse] == ["jpeg 60", "clean"], "the worst first"
    assert means(rows(0.1, 0.2, 0.3), ["category"])[0]["lpips"] == pytest.approx(0.2)
    reached = [target.reached for target in targets(rows(0.32, 0.4, 0.5), bicubic)]
    assert reached == [False, False, True, False]


def test_what_was_measured_of_the_same_weights_is_not_measured_again(tmp_path: Path) -> None:
    from do_no_harm import Kept
    from enlargers import Enlarger

    bicubic = Enlarger("bicubic")
    Kept(tmp_path, bicubic).add({"truth": "t", "degradation": "clean", "lpips": 0.5})
    kept = Kept(tmp_path, bicubic)
    assert kept.find("t", "clean", {"lpips"})["lpips"] == 0.5
    assert kept.find("t", "clean", {"lpips", "dists"}) is None, "a measure is missing"
    assert kept.find("t", "jpeg 12", {"lpips"}) is None
    bicubic.identity = "other weights"
    assert Kept(tmp_path, bicubic).find("t", "clean", {"lpips"}) is None


def dial_rows(energies: list[float], grains: list[float], blocks: float) -> dict[str, list[dict[str, object]]]:
    """What ``dial.dial`` measures; bicubic has grain 10 and blocks of 6 levels."""
    from dial import BY_ESTIMATE, FORCED

    settings = (*FORCED, BY_ESTIMATE)
    blur = [
        {"setting": setting, "edges": energy, "own_size": energy}
        for setting, energy in zip(settings, [*energies, energies[-1]], strict=True)
    ]
    noise = [
        {"setting": setting, "grain": grain, "blocks": blocks}
        for setting, grain in zip(settings, [*grains, grains[-1]], strict=True)
    ]
    return {"noise": [{"setting": "bicubic", "grain": 10.0, "blocks": 6.0}, *noise], "blur": blur}


def test_a_dial_that_turns_evenly_reaches_its_targets_and_one_that_hangs_misses_them() -> None:
    from dial import targets

    even = targets(dial_rows([0.05, 0.1, 0.2, 0.4], [9.5, 7.5, 5.5, 4.0], 2.0))
    assert all(target.reached for target in even)
    hanging = targets(dial_rows([0.05, 0.2, 0.21, 0.22], [9.5, 4.1, 4.0, 4.0], 5.0))
    assert [target.reached for target in hanging] == [True, False, False] * 2 + [True, True, False, False, False]


def test_the_estimators_targets_see_texture_taken_for_noise_and_late_blur() -> None:
    from degrees import EVEN_SIGMAS_PX, JPEG_KINDS, targets

    def figures(blur: list[float], foliage: float, strong: float) -> dict[str, object]:
        return {
            "blur": {"pooled": 0.95},
            "noise": {"pooled": 0.95},
            "evenly": dict(zip(map(str, EVEN_SIGMAS_PX), blur, strict=True)),
            "clean_noise": {"foliage": [0.1, foliage], "cloth": [0.1], "line art": [0.0]},
            "jpeg": {kind: {"blur": 0.1, "noise": strong if kind == "jpeg 12" else 0.1} for kind in JPEG_KINDS},
        }

    good = targets(figures([0.05, 0.2, 0.35, 0.5, 0.7, 0.9], 0.14, 0.5))
    assert all(target.reached for target in good)
    late = targets(figures([0.0, 0.0, 0.0, 0.04, 0.25, 0.8], 0.74, 0.23))
    assert [target.reached for target in late] == [True, True, False, False, False, True, True, False]


def test_spearman_sees_order_and_nothing_else() -> None:
    from degrees import spearman

    rising = torch.tensor([0.0, 0.1, 5.0, 5.1])
    assert spearman(rising, rising**3) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    assert spearman(rising, torch.ones(4)) == 0


def test_a_model_behind_real_esrgan_or_too_slow_misses_its_targets() -> None:
    from kodak_degraded import targets

    from s3diff.evaluation.report import Row
    from s3diff.evaluation.statistics import Interval

    def row(name: str, psnr_y: float, lpips: float, dists: float, seconds: float) -> Row:
        figures = {"psnr_y": psnr_y, "lpips_alex": lpips, "dists": dists}
        return Row(name, 24, {key: Interval(value, value, value) for key, value in figures.items()}, seconds)

    rows = [row("bicubic", 24.3, 0.755, 0.357, 0.01), row("ours", 24.4, 0.33, 0.23, 0.5)]
    assert targets(rows) == [], "nothing is asked without Real-ESRGAN's own figures"
    asked = targets([*rows, row("real-esrgan", 24.0, 0.335, 0.225, 1.2)])
    assert [target.reached for target in asked] == [True, False, True, False]


def test_a_blind_vote_shows_the_same_squares_for_a_seed_and_every_kind(tmp_path: Path) -> None:
    from blind_votes import INPUT_PX, KINDS, OWN_SIZE, REDUCED, chosen
    from enlargers import as_picture, reduced

    paths = []
    for seed in range(2):
        coarse = torch.rand(1, 3, 60, 70, generator=torch.Generator().manual_seed(seed))
        paths.append(tmp_path / f"{seed}.png")
        write_picture(as_picture(resample(coarse, 480, 560, "bicubic")), paths[-1])
    first, again, other = (list(chosen(paths, 12, seed, ("ours", "theirs"))) for seed in (5, 5, 6))
    assert [row for row, _ in first] == [row for row, _ in again]
    assert [row for row, _ in first] != [row for row, _ in other]
    assert {row.left for row, _ in first} == {"ours", "theirs"}, "sides are drawn"
    for path in paths:
        assert {row.kind for row, _ in first if row.picture == path.name} == set(KINDS)
    for (row, image), (_, same) in zip(first, again, strict=True):
        assert torch.equal(image, same)
        assert image.shape == (1, 3, INPUT_PX, INPUT_PX)
        side = INPUT_PX if row.kind == OWN_SIZE else SCALE * INPUT_PX
        truth = to_tensor(read_picture(tmp_path / row.picture))
        cut = truth[..., row.top_px : row.top_px + side, row.left_px : row.left_px + side]
        if row.kind == OWN_SIZE:
            assert torch.equal(image, cut)
        else:
            distance = 255 * float((image - reduced(cut)).abs().mean())
            assert distance < 0.5 if row.kind == REDUCED else 0.5 < distance < 30


def test_votes_are_counted_for_the_method_that_was_on_that_side() -> None:
    from blind_votes import counted

    key = {1: "ours", 2: "theirs", 3: "ours", 4: "theirs"}
    judges = [{1: "left", 2: "right", 3: "right", 4: "same"}, {1: "left", 2: "left", 3: "left"}]
    found = counted(key, ("ours", "theirs"), judges)
    assert found["votes"] == {"ours": 4, "theirs": 2, "same": 1}
    assert found["rows"] == {"ours": 1, "theirs": 0, "same": 3}, "rows 2 and 3 are split, row 4 undecided"
    assert found["share_of_decided_rows"] == 1
    assert counted(key, ("ours", "theirs"), [{}])["share_of_decided_rows"] is None


def test_an_answer_that_is_no_vote_is_refused(tmp_path: Path) -> None:
    from blind_votes import read_votes

    file = tmp_path / "votes_a.csv"
    file.write_text("row,vote\n1,left\n\n2, same\n", "utf-8")
    assert read_votes(file, {1, 2}) == {1: "left", 2: "same"}
    for text in ("9,left\n", "1,both\n", "1\n", "one,left\n", "1,left\n1,right\n"):
        file.write_text(text, "utf-8")
        with pytest.raises(SystemExit, match=r"votes_a\.csv"):
            read_votes(file, {1, 2})


def test_the_interval_of_a_share_is_wilsons() -> None:
    from targets import wilson_interval

    low, high = wilson_interval(81, 263)  # the worked example of Newcombe 1998
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(60, 60)[0] == pytest.approx(0.940, abs=1e-3)


def test_degraded_crops_are_those_of_the_degrade_command(tmp_path: Path) -> None:
    from enlargers import as_picture
    from kodak_degraded import degraded_set

    from s3diff.degradation.application import apply
    from s3diff.degradation.settings import PRESETS
    from s3diff.degradation.synthesis import draw_by_name

    coarse = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    (tmp_path / "kodak").mkdir()
    write_picture(as_picture(resample(coarse, 400, 480, "bicubic")), tmp_path / "kodak" / "one.png")
    (item,) = degraded_set(tmp_path / "kodak", tmp_path / "run").items
    truth, low_quality = (to_tensor(read_picture(path)) for path in (item.truth, item.low_quality))
    assert torch.equal(truth, to_tensor(read_picture(tmp_path / "kodak" / "one.png"))[..., 8:392, 48:432])
    drawn = draw_by_name(PRESETS["s3diff"], 384, 384, 4, 7, "one.png")
    assert torch.equal(low_quality, (apply(truth, drawn) * 255).round() / 255)


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py")))
def test_every_benchmark_finds_what_it_imports(name: str) -> None:
    import importlib

    assert importlib.import_module(name).__doc__
