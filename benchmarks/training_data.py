"""How fast training crops come: decoded pictures kept, decoded anew, from a folder and from a tar, and the indices.

python benchmarks/training_data.py FOLDER --crop-px 512 --workers 2
"""

from __future__ import annotations

import argparse
import itertools
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s3diff.images.files.reading import list_pictures
from s3diff.training.data.batches import crop_batches
from s3diff.training.data.crops import CropDataset, epoch_order
from s3diff.training.data.shards import index_shards
from s3diff.training.data.sources import open_source

BATCH = 4
#: Shard of small members for the speed of reading headers.
NUM_MEMBERS = 5000


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def crops_per_second(dataset: CropDataset, num_workers: int, num_steps: int) -> float:
    """After a first batch, which starts the workers and, with a cache, after each picture has been met."""
    warm_up = -(-len(dataset.source) // BATCH) * max(1, num_workers) * 2 if dataset.cache_bytes else 1
    options = {"first_step": 0, "rows": range(BATCH), "global_batch_size": BATCH, "num_workers": num_workers}
    batches = crop_batches(dataset, **options)  # type: ignore[arg-type]
    for _ in itertools.islice(batches, warm_up):
        pass
    taken = seconds(lambda: list(itertools.islice(batches, num_steps)))
    batches.close()
    return num_steps * BATCH / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crop-px", type=int, default=512)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20, help="measured where every picture is decoded")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        packed = Path(temporary) / "all.tar"
        with tarfile.open(packed, "w") as archive:
            for path in list_pictures(given.folder, recursive=True):
                archive.add(path, arcname=path.relative_to(given.folder).as_posix())
        for place in (given.folder, packed):
            source = open_source(str(place), cache_folder=Path(temporary))
            sizes = [source.read(index).shape for index in range(min(10, len(source)))]
            print(f"{place.name}: {len(source)} pictures, {np.mean([h * w for h, w, _ in sizes]) / 1e6:.1f} megapixels")
            for num_workers in (0, given.workers):
                for cache_bytes, num_steps in ((0, given.steps), (4 << 30, 10 * given.steps)):
                    dataset = CropDataset(source, given.crop_px, 0, min_detail=2.0, cache_bytes=cache_bytes)
                    speed = crops_per_second(dataset, num_workers, num_steps)
                    kept = "kept" if cache_bytes else "decoded each time"
                    print(
                        f"  {num_workers} workers, pictures {kept}: {speed:.0f} crops of {given.crop_px} px per second"
                    )
        many = Path(temporary) / "many.tar"
        with tarfile.open(many, "w") as archive:
            for number in range(NUM_MEMBERS):
                archive.addfile(tarfile.TarInfo(f"{number}.jpg"))
        for what in ("scanned", "from the saved index"):
            taken = seconds(lambda: index_shards([str(many)], Path(temporary)))
            print(f"index of {NUM_MEMBERS} members {what}: {taken:.3f} s")
        for num_pictures in (1_000_000, 10_000_000):
            taken = seconds(lambda: epoch_order([num_pictures], 0, 0))  # noqa: B023 - called at once
            print(f"order of an epoch of {num_pictures} pictures: {taken:.2f} s")


if __name__ == "__main__":
    main()
