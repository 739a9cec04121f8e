"""The small Gradio demo: every control has its effect, errors are told in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from s3diff import Restorer

gradio = pytest.importorskip("gradio", reason="needs the extra demo")


@pytest.fixture(scope="module")
def restored(compact: Restorer) -> Any:
    """The demo's function: pixels, scale, blur, noise, strength, guidance."""
    from s3diff.integrations.gradio import demo

    return demo(compact).fn


def test_every_slider_has_an_effect(restored: Any) -> None:
    photo = np.random.default_rng(0).integers(60, 190, (24, 32, 3), np.uint8)
    plain, words = restored(photo, 2.0, 0.0, 0.0, 1.0, 1.07)
    assert plain.shape == (48, 64, 3)
    assert words.startswith("Estimated: blur 0.")
    assert restored(photo, 3.0, 0.0, 0.0, 1.0, 1.07)[0].shape == (72, 96, 3)
    for turned in (
        (2.0, 0.5, 0.0, 1.0, 1.07),
        (2.0, 0.0, 0.5, 1.0, 1.07),
        (2.0, 0.0, 0.0, 0.2, 1.07),
        (2.0, 0.0, 0.0, 1.0, 3),
    ):
        assert not np.array_equal(restored(photo, *turned)[0], plain), turned


def test_errors_are_told_in_one_line(restored: Any) -> None:
    with pytest.raises(gradio.Error, match="picture first"):
        restored(None, 2.0, 0.0, 0.0, 1.0, 1.07)
    with pytest.raises(gradio.Error, match="megapixels"):
        restored(np.zeros((2000, 2000, 3), np.uint8), 4.0, 0.0, 0.0, 1.0, 1.07)
