"""What the service asks of the library: batches in turn, estimates, work that can be ended, headers, file to file."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import REPOSITORY
from s3diff import RestoreOptions, Restorer
from s3diff.errors import PictureError
from s3diff.images.files.reading import PictureHeader, picture_header, read_picture
from s3diff.options import OutputOptions
from s3diff.restoration import device_model, tile_plan
from s3diff.restoration.device import repeatable, turn_of
from s3diff.restoration.result import result_extension, result_stem
from serving_pictures import jpeg_with_metadata, photo, png_claiming


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("side", [24, 48])
def test_in_turn_is_the_same_to_the_bit_with_the_embedded_model(precision: str, side: int) -> None:
    restorer = Restorer.from_pretrained("compact", device="cpu", precision=precision)  # type: ignore[arg-type]
    pixels = read_picture(REPOSITORY / "assets" / "photos" / "budgerigar.jpg").pixels
    pictures = [np.ascontiguousarray(pixels[7 * i : 7 * i + side, 5 * i : 5 * i + side]) for i in range(4)]
    together = restorer.restore_batch(pictures, in_turn=True)
    for picture, restored in zip(pictures, together, strict=True):
        alone = restorer.restore(picture)
        assert restored.degrees == alone.degrees
        assert np.array_equal(restored.array, alone.array)


def test_in_turn_with_options_of_every_kind() -> None:
    restorer = Restorer.from_pretrained("compact", device="cpu", precision="float32")
    options = RestoreOptions(scale=3, noise="+0.1", latent="sample", seed=3, strength=0.7, color_match="adain")
    pixels = read_picture(REPOSITORY / "assets" / "photos" / "kitten.jpg").pixels
    pictures = [np.ascontiguousarray(pixels[9 * i : 9 * i + 40, 7 * i : 7 * i + 50]) for i in range(3)]
    for picture, restored in zip(pictures, restorer.restore_batch(pictures, options, in_turn=True), strict=True):
        assert np.array_equal(restored.array, restorer.restore(picture, options).array)


def test_in_turn_is_near_with_any_model(restorer: Restorer) -> None:
    pictures = [np.random.default_rng(seed).random((20, 30, 3)) for seed in range(3)]
    for picture, restored in zip(pictures, restorer.restore_batch(pictures, in_turn=True), strict=True):
        difference = restored.array.astype(int) - restorer.restore(picture).array
        assert np.abs(difference).max() <= 1, "of 65535 levels"


def test_an_estimate_is_the_walks(restorer: Restorer) -> None:
    picture = np.random.default_rng(1).random((30, 20, 3))
    assert restorer.estimate(picture) == restorer.restore(picture).estimated


def test_an_estimate_does_not_wait(restorer: Restorer) -> None:
    picture, estimated = np.zeros((24, 24, 3), np.uint8), threading.Event()

    def look() -> None:
        if not estimated.is_set():
            other = threading.Thread(target=lambda: (restorer.estimate(picture), estimated.set()))
            other.start()
            other.join(60)
            assert estimated.is_set(), "the estimate waited for the picture that is being restored"

    with restorer.watched(look):
        restorer.restore(picture)
    assert estimated.is_set()


def test_the_flags_stay_while_an_estimate_runs(restorer: Restorer) -> None:
    picture, begun, restored = np.zeros((24, 24, 3), np.uint8), threading.Event(), threading.Event()
    seen: list[str] = []

    def estimate() -> None:
        restorer.estimate(picture)

    other = threading.Thread(target=estimate)

    def hold(*_: object) -> None:
        if threading.current_thread() is other and not seen:
            begun.set()
            assert restored.wait(60)
            seen.append(torch.get_float32_matmul_precision())

    def look() -> None:
        if not begun.is_set():
            other.start()
            assert begun.wait(60)

    before = torch.get_float32_matmul_precision()
    layer = next(module for module in restorer.generator.estimator.modules() if isinstance(module, torch.nn.Conv2d))
    hook = layer.register_forward_pre_hook(hold)
    torch.set_float32_matmul_precision("medium")
    try:
        with restorer.watched(look):
            restorer.restore(picture)
        restored.set()
        other.join(60)
        assert seen == ["highest"], "the restoration's end changed the flags under a running estimate"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        hook.remove()
        torch.set_float32_matmul_precision(before)


def test_strict_flags_win_and_the_last_call_restores_the_callers() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic)
    with repeatable(exactly=False):
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
        with repeatable(exactly=True):
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert cudnn.deterministic, "a call that began under strict flags may still run"
    assert (cudnn.benchmark, cudnn.deterministic) == before


def test_devices_do_not_wait_for_each_other(restorer: Restorer) -> None:
    assert turn_of(torch.device("cuda")) is turn_of(torch.device("cuda:0"))
    assert turn_of(torch.device("cuda:1")) is not turn_of(torch.device("cuda:0"))
    with turn_of(torch.device("cuda")):
        restorer.restore(np.zeros((8, 8, 3), np.uint8))
    assert not turn_of(restorer.device).locked()


def test_model_that_moves_while_its_turn_is_awaited_waits_for_the_new_device(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere, asked, held = restorer.device, torch.device("cuda"), threading.Event(), []

    def turn_asked_for(device: torch.device) -> threading.Lock:
        asked.set()
        return turn_of(device)

    def work() -> None:
        with restorer.turn():
            held.append([turn_of(device).locked() for device in (here, elsewhere)])

    monkeypatch.setattr(device_model, "turn_of", turn_asked_for)
    with turn_of(here):
        thread = threading.Thread(target=work)
        thread.start()
        assert asked.wait(60)
        monkeypatch.setattr(restorer, "device", elsewhere)
    thread.join(60)
    assert held == [[False, True]]
    assert not turn_of(elsewhere).locked()


def test_tiles_are_chosen_by_the_memory_that_is_free_in_the_models_turn(
    restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, free_bytes = [], tile_plan.free_bytes

    def seen(device: torch.device) -> int:
        measured.append(turn_of(device).locked())
        return free_bytes(device)

    monkeypatch.setattr(tile_plan, "free_bytes", seen)
    restorer.restore(np.zeros((24, 24, 3), np.uint8))
    restorer.restore_tensor(torch.zeros(1, 3, 24, 24))
    assert measured == [True, True]


def test_a_model_does_not_move_under_a_running_estimate(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    features = restorer.generator.estimator.features
    monkeypatch.setattr(
        restorer.generator.estimator, "features", lambda *args: held.append(restorer.placed.locked()) or features(*args)
    )
    restorer.estimate(np.zeros((24, 24, 3), np.uint8))
    assert held == [True]


def test_hooks_on_layers_see_one_picture_as_they_see_a_batch(restorer: Restorer) -> None:
    picture, generator = np.zeros((24, 24, 3), np.uint8), restorer.generator
    called: set[str] = set()
    names = {
        module: f"{place}.{name}"
        for place, network in (("encoder", generator.autoencoder.encoder), ("unet", generator.unet))
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.SiLU | torch.nn.Conv2d | torch.nn.Linear) and "lora" not in name
    }
    hooks = [module.register_forward_pre_hook(lambda *_, name=name: called.add(name)) for module, name in names.items()]
    try:
        restorer.restore(picture)
        of_one = set(called)
        called.clear()
        restorer.restore_batch([picture, picture])
    finally:
        for hook in hooks:
            hook.remove()
    assert {name.split(".")[0] for name in of_one} == {"encoder", "unet"}
    assert of_one <= called
    # The timestep is the same for all pictures: a folded network knows its embedding beforehand.
    assert all("time_emb" in name for name in called - of_one)


def test_watched_work_ends_where_it_is_told_to(restorer: Restorer) -> None:
    class Stopped(Exception):
        pass

    picture, calls = np.full((24, 24, 3), 90, np.uint8), 0
    before = restorer.restore(picture).array

    def count() -> None:
        nonlocal calls
        calls += 1

    with restorer.watched(count):
        restorer.restore(picture)
    assert calls > 20
    for place in (1, calls // 2, calls):
        left = place

        def stop() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped

        with pytest.raises(Stopped), restorer.watched(stop):
            restorer.restore(picture)
        assert np.array_equal(restorer.restore(picture).array, before), "what follows is as if nothing had happened"
    hooked = [module for module in restorer.generator.modules() if module._forward_pre_hooks]
    assert hooked == []
    assert torch.backends.cudnn.benchmark is False


def test_headers(tmp_path: Path) -> None:
    for name, content, header in (
        ("a.png", photo(30, 20), PictureHeader(30, 20, ".png")),
        ("a", jpeg_with_metadata(40, 20), PictureHeader(40, 20, ".jpg")),
        ("b.png", png_claiming(60000, 50000), PictureHeader(60000, 50000, ".png")),
    ):
        (tmp_path / name).write_bytes(content)
        assert picture_header(tmp_path / name) == header
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(PictureError, match=r"c\.png is not a"):
        picture_header(tmp_path / "c.png")
    with pytest.raises(PictureError, match="no such file"):
        picture_header(tmp_path / "absent.png")


def test_the_header_of_a_heic_picture(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_bytes("RGB", (32, 16), bytes(32 * 16 * 3)).save(tmp_path / "a.heic")
    assert picture_header(tmp_path / "a.heic") == PictureHeader(32, 16, ".heic")


@pytest.mark.parametrize(
    ("extension", "form", "made"),
    [
        (".JPG", None, ".JPG"),
        (".JPG", "jpeg", ".JPG"),
        (".tif", "tiff", ".tif"),
        (".png", "webp", ".webp"),
        (".xyz", None, ".png"),
        ("", None, ".png"),
    ],
)
def test_a_results_extension(extension: str, form: str | None, made: str) -> None:
    assert result_extension(extension, OutputOptions(format=form)) == made  # type: ignore[arg-type]


def test_a_results_stem() -> None:
    writing = OutputOptions(name="{stem}_{model}_x{scale}")
    assert result_stem(writing, {"stem": "a.b", "model": "compact", "scale": "4"}) == "a.b_compact_x4"
