"""What a result keeps of its picture, by format: the table of ``docs/pictures.md``.

``python -m s3diff.images.kept`` prints that file; a test compares it with the one in the tree, another one proves the
rows with files.
"""

from __future__ import annotations

from typing import NamedTuple


class Kept(NamedTuple):
    """One format's row."""

    format: str
    extensions: tuple[str, ...]
    depths: str
    alpha: bool
    icc_profile: bool
    exif: bool
    xmp: bool
    dpi: str


KEPT = (
    Kept("PNG", (".png",), "8; 16 for grey without alpha", True, True, True, True, "yes"),
    Kept("JPEG", (".jpg", ".jpeg"), "8", False, True, True, True, "yes"),
    Kept("WebP", (".webp",), "8", True, True, True, True, "in EXIF"),
    Kept("TIFF", (".tif", ".tiff"), "8; 16 for grey without alpha", True, True, True, True, "yes"),
    Kept("AVIF", (".avif",), "8", True, True, True, True, "in EXIF"),
    Kept("BMP", (".bmp",), "8", False, False, False, False, "yes"),
)

_BEFORE = """# Pictures: what is kept

Made by `python -m s3diff.images.kept > docs/pictures.md`; do not edit by hand.

| format | extensions | bits per channel | transparency | colour profile | EXIF | XMP | DPI |
|---|---|---|---|---|---|---|---|
"""
_AFTER = """
- **Grey** stays grey, unless the model put real colour into it (`--grey`). A palette becomes RGB, 1 bit becomes 8-bit
  grey, CMYK becomes RGB through its profile, which is then dropped. A remark says what was lost.
- **Orientation** is applied once; the tag says upright afterwards, in EXIF and in XMP. **Dimensions** in EXIF and XMP
  are the result's; the **thumbnail** of the small picture is dropped. TIFF takes over descriptive tags, EXIF and GPS.
- **Colour**: a picture in Display P3, Adobe RGB or another space of three primaries is converted to sRGB for the
  networks and back, in floats, with what lies outside sRGB carried around them. The profile stays the same.
  Profiles made of tables (printers, scanners) and grey ones are not converted: their values go through as they are
  stored.
- **Transparency** is enlarged along the edges of the restored colours (`--alpha guided`) or by bicubic interpolation
  (`--alpha bicubic`). Colours under fully transparent pixels are replaced by those around them before anything is
  computed, so that they cannot reach the visible edge.

Not kept yet: 16 bits of colour pictures (`--stream` keeps them) and of pictures with transparency (restored and
written with 8, with a remark); every frame or page but the first; 10 and 12 bits of AVIF. HEIC and GIF are not read.

## Larger than memory

`s3diff restore scan.tif -o large.tif --stream` (the extra `large`; without `--stream` by itself where a `.tif` would
have more pixels than `--max-megapixels`) reads a TIFF, PNG or JPEG part by part and writes a tiled, losslessly
compressed BigTIFF. Tiled TIFF is read where it is needed; libvips decodes the others once, beyond 100 MB into a
temporary file (`TMPDIR`). At a scale of 4 and above the result is the one that memory would have given, within one
grey level; 16 bits of colour pictures are kept, too. From Python: `Restorer.restore_file(source, target, options,
progress=...)`.

- RGB and grey, 8 and 16 bits. Colour profile and DPI are kept; EXIF and XMP are not, and a remark says so. Wide-gamut
  colours go through the networks as they are stored, and a remark says so.
- Refused in one line: transparency, CMYK, other formats; `--strength` below 1, `--size-mode fill` that cuts,
  `--restore-at model` at another scale than 4, `--latent sample`; a model with attention or group norm (`s3diff`),
  which needs the whole picture. The networks work at the output's size, also below a scale of 4.
- The pixels lie beside the target meanwhile, hidden, uncompressed; finished tiles are written down one by one. After an
  interruption or a power cut the same command goes on with the next tile and gives the same bytes. Another source,
  model or option begins anew. To give up, delete `.NAME.s3diff-*`.

## Folders

`s3diff restore FOLDER -r -o OUT` mirrors the tree below `FOLDER`. Patterns (`'photos/**/*.jpg'`) and lists
(`--list FILE`, `--list -`) mirror the tree below the part without wildcards, and below the files' common folder. With
`--format` every result gets that format; where two would get one name (`a.png`, `a.jpg`), the one that changes keeps
its old ending inside: `a.jpg.png`.

What is done stands in `OUT/.s3diff-journal.jsonl` (elsewhere: `--journal`). The same command goes on after an
interruption, a killed process or a power cut. A picture counts as done if its result is there and its source has the
size and time of change that it had; a run with another model or other options does not count, and replaces results only
with `--overwrite`. To restore everything again, remove the journal and give `--overwrite`. One process at a time may
use a journal. A full disk stops the run.

`--shard I/N`, I from 0 to N - 1, takes the pictures whose place in the output falls into part I by a hash: disjoint and
complete for any N, also where pictures are added between the starts of the jobs; the parts are equal only on average.
Every part has a journal of its own. SLURM: `--array=0-7` and `--shard $SLURM_ARRAY_TASK_ID/8`; Kubernetes, indexed job:
`--shard $JOB_COMPLETION_INDEX/8`.

`--report FILE` holds one JSON object a line: `state` (`done`, `skipped`, `failed`), `source`, `target`, `reason`,
`notes`, `width`, `height`, `blur`, `noise`, `estimated_blur`, `estimated_noise`, `seconds`.
"""


def page() -> str:
    """The whole file."""
    rows = [
        f"| {row.format} | {', '.join(row.extensions)} | {row.depths} | "
        + " | ".join("yes" if has else "no" for has in (row.alpha, row.icc_profile, row.exif, row.xmp))
        + f" | {row.dpi} |\n"
        for row in KEPT
    ]
    return _BEFORE + "".join(rows) + _AFTER


if __name__ == "__main__":
    print(page(), end="")
