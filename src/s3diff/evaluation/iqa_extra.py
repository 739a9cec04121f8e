"""Compute MUSIQ, MANIQA and CLIPIQA with pyiqa; nothing else imports it.

pyiqa is an optional extra under a licence for non-commercial use (PolyForm Noncommercial), and it fetches the weights
of these measures itself on first use. Nothing else in the project needs it.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from s3diff.errors import DownloadError, MissingExtraError
from s3diff.evaluation.psnr_ssim import check_images
from s3diff.messages import install_command, reason_of

#: Our names of the measures and pyiqa's. MANIQA has two checkpoints in use: plain ``maniqa`` was trained on KonIQ, the
#: other one on PIPAL; their figures differ by about 0.2 and must not be compared.
PYIQA_NAMES = {
    "musiq": "musiq",
    "maniqa_koniq": "maniqa",
    "maniqa_pipal": "maniqa-pipal",
    "clipiqa": "clipiqa",
}


class NoReferenceMeasure:
    """Compute one of pyiqa's measures.

    Args:
        name: one of ``PYIQA_NAMES``.

    Raises:
        MissingExtraError: pyiqa is not installed.
        DownloadError: pyiqa could not fetch or read the weights.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if importlib.util.find_spec("pyiqa") is None:
            raise MissingExtraError(
                f"{name} needs pyiqa, whose licence allows only non-commercial use; where that fits: "
                f"{install_command('iqa')}"
            )
        import pyiqa

        self.name = name
        try:
            self._measure: Any = pyiqa.create_metric(PYIQA_NAMES[name], device=device)
        except Exception as error:  # whatever its downloader and its checkpoint reader raise
            raise DownloadError(
                f"pyiqa could not load {PYIQA_NAMES[name]} ({reason_of(error)[:200]}); let pyiqa fetch it once where "
                "there is a network, and copy its cache folder here"
            ) from error

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Score [B, 3, H, W] float, RGB in [0, 1], as [B]; one by one, because pyiqa's results depend on the batch.

        Raises:
            PictureError: not such a tensor.
        """
        check_images(images, self.name)
        return torch.stack([self._measure(image[None]).flatten()[0].double().cpu() for image in images])
