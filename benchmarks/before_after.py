"""Make the README's picture: the input enlarged by bicubic interpolation beside the restored one.

python benchmarks/before_after.py assets/photos/budgerigar.jpg assets/before_after.jpg
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import s3diff
from s3diff.images.codecs import from_tensor, read_picture, to_tensor, write_picture
from s3diff.images.resampling import enlarge

#: White line between the two halves.
GAP_PX = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", default="compact")
    given = parser.parse_args()
    picture = read_picture(given.picture)
    restored = to_tensor(s3diff.restore(picture, model=given.model).picture)
    before = enlarge(to_tensor(picture), restored.shape[2], restored.shape[3], mode="bicubic")
    gap = torch.ones(1, 3, restored.shape[2], GAP_PX)
    both = torch.cat([before, gap, restored], dim=3)
    write_picture(replace(picture, pixels=from_tensor(both, picture), exif=None), given.output, quality=90)


if __name__ == "__main__":
    main()
