"""What reading and writing of pictures costs, against another commit: the processor's time, as a ratio, in one run.

    python benchmarks/picture_files.py --before 543ec60 [--pictures 200] [--kinds JPEG ..] [--json FILE]

Pictures of one megapixel of each kind are made, and read and written by two processes: one imports this tree's sources,
the other one those of the commit, taken out of the repository by ``git archive``. They take turns picture by picture,
the first one changing, so that what else the machine does falls on both alike; and the processor's time is counted, not
the clock's. 543ec60 is the commit before colours, coordinates and attachments followed their pictures.

The written picture has eight rows less than the one that was read: so its metadata has to follow.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT, CUT_ROWS = 1152, 864, 8
#: Rounds of one picture: the fastest counts, which other processes have disturbed least.
ROUNDS = 3
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" {}>{}</rdf:Description>'
    "</rdf:RDF></x:xmpmeta>"
)
REGION = (
    '<mwg-rs:Regions rdf:parseType="Resource"><mwg-rs:RegionList><rdf:Bag><rdf:li rdf:parseType="Resource"><mwg-rs:Area'
    ' stArea:x="0.4" stArea:y="0.5" stArea:w="0.1" stArea:h="0.2" stArea:unit="normalized"/><mwg-rs:Name>Anna'
    "</mwg-rs:Name></rdf:li></rdf:Bag></mwg-rs:RegionList></mwg-rs:Regions>"
)
NAMESPACES = (
    'xmlns:mwg-rs="http://www.metadataworkinggroup.com/schemas/regions/" xmlns:stArea="http://ns.adobe.com/xmp/sType/'
    'Area#"'
)
PLAIN_XMP, REGION_XMP = XMP.format("", "").encode(), XMP.format(NAMESPACES, REGION).encode()


def exif() -> Image.Exif:
    """What cameras write, without a maker note."""
    block = Image.Exif()
    block[0x010F], block[0x0110], block[0x0112] = "Maker", "Model", 1
    block[0x8769] = {0x9003: "2024:01:02 03:04:05", 0x8827: 400, 0xA002: WIDTH, 0xA003: HEIGHT}
    return block


def photograph(seed: int) -> np.ndarray:
    """[H, W, 3] of smooth shapes with grain."""
    draw = np.random.default_rng(seed)
    shapes = Image.fromarray(draw.integers(0, 255, (27, 36, 3), np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(shapes) + draw.normal(0, 3, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)


def _by_pillow(format_name: str, **settings: Any) -> Any:
    def save(pixels: np.ndarray, path: Path) -> None:
        Image.fromarray(pixels).save(path, format_name, **settings)

    return save


def _deep(pixels: np.ndarray, path: Path) -> None:
    """16 bits, as this tree writes them."""
    from s3diff.images.files.writing import write_picture
    from s3diff.images.picture import Picture

    write_picture(Picture(pixels.astype(np.uint16) * 257), path)


KINDS = {
    "JPEG": (".jpg", _by_pillow("JPEG", quality=92)),
    "JPEG, EXIF and XMP": (".jpg", _by_pillow("JPEG", quality=92, exif=exif(), xmp=PLAIN_XMP)),
    "JPEG, XMP with a region": (".jpg", _by_pillow("JPEG", quality=92, exif=exif(), xmp=REGION_XMP)),
    "PNG": (".png", _by_pillow("PNG")),
    "PNG, 16 bits": (".png", _deep),
    "WebP": (".webp", _by_pillow("WEBP", quality=90, method=2)),
    "TIFF": (".tif", _by_pillow("TIFF")),
    "TIFF, LZW": (".tif", _by_pillow("TIFF", compression="tiff_lzw")),
    "TIFF, 16 bits": (".tif", _deep),
    "BMP": (".bmp", _by_pillow("BMP")),
}


def work() -> None:
    """One side: for each line with two paths, the seconds that reading and writing take."""
    from dataclasses import replace

    from s3diff.images.files.reading import read_picture
    from s3diff.images.files.writing import write_picture

    for line in sys.stdin:
        source, target = json.loads(line)
        times = []
        for _ in range(ROUNDS):
            started = time.process_time()
            picture = read_picture(source)
            read = time.process_time()
            write_picture(replace(picture, pixels=picture.pixels[:-CUT_ROWS]), target)
            times.append((read - started, time.process_time() - read))
            os.remove(target)
        print(json.dumps([min(each) for each in zip(*times, strict=True)]), flush=True)


def start(sources: Path) -> subprocess.Popen[str]:
    """Start the side that imports these sources."""
    environment = {**os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--work"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def timed(side: subprocess.Popen[str], source: Path, target: Path) -> tuple[float, float]:
    """Seconds of reading and of writing."""
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write(json.dumps([str(source), str(target)]) + "\n")
    side.stdin.flush()
    read, written = json.loads(side.stdout.readline())
    return read, written


def compare(before: str, num_pictures: int, kinds: list[str]) -> dict[str, Any]:
    """Measure both sides; milliseconds of this tree and ratios to the commit, by kind."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        archive = subprocess.run(
            ["git", "-C", str(REPOSITORY), "archive", before, "src"], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tree:
            tree.extractall(there / "before", filter="data")
        sides = {"before": start(there / "before" / "src"), "after": start(REPOSITORY / "src")}
        for index, kind in enumerate(kinds):
            extension, save = KINDS[kind]
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
            for number in range(num_pictures // len(kinds) + (index < num_pictures % len(kinds))):
                source, target = there / f"in{extension}", there / f"out{extension}"
                save(photograph(number), source)
                for name in list(sides)[:: 1 if number % 2 else -1]:
                    times[name].append(timed(sides[name], source, target))
            results[kind] = {"pictures": len(times["after"])}
            for place, step in enumerate(("reading", "writing")):
                sums = {name: sum(each[place] for each in found) for name, found in times.items()}
                middle = statistics.median(each[place] for each in times["after"])
                results[kind][step] = {"ms": round(1000 * middle, 2), "ratio": round(sums["after"] / sums["before"], 3)}
            both = {name: sum(map(sum, found)) for name, found in times.items()}
            results[kind]["ratio"] = round(both["after"] / both["before"], 3)
            print(f"{kind:26}" + "  ".join(
                f"{step} {results[kind][step]['ms']:8.2f} ms x{results[kind][step]['ratio']:.3f}"
                for step in ("reading", "writing")) + f"  both x{results[kind]['ratio']:.3f}", flush=True)  # fmt: skip
        for side in sides.values():
            side.communicate()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", default="543ec60", help="the commit to compare with")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work()
        return
    results = compare(given.before, given.pictures, given.kinds)
    if given.json:
        described = {
            "before": given.before,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
        }
        given.json.write_text(json.dumps({**described, "kinds": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
