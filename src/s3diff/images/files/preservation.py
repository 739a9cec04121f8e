"""Write the table of ``docs/pictures.md``: which contents of a picture its result keeps, by format.

``python -m s3diff.images.files.preservation`` prints that file. One test compares it with the one in the tree, another
one proves the rows with files.
"""

from __future__ import annotations

from s3diff.formats import ANIMATED_TITLES, FORMATS, Format
from s3diff.images.files.coordinate_fields import FIELDS
from s3diff.images.files.geotiff import follow_position
from s3diff.images.files.iptc import with_layout

_WITH_XMP, _WITHOUT_XMP = (", ".join(each.title for each in FORMATS if each.has_xmp == has) for has in (True, False))
_COORDINATES_HERE = "(the table of coordinates)\n"
_BEFORE = """# Pictures: what a result keeps

Made by `python -m s3diff.images.files.preservation > docs/pictures.md`; do not edit by hand.

| format | extensions | bits | transparency | profile | EXIF | XMP | IPTC | texts | DPI | animation | pages |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
_AFTER = f"""
What a format cannot hold is left out, and a remark says so; where that is transparency, the picture is refused.
GIF holds 256 colours. A picture of wide colours that goes into BMP or GIF, which hold no profile, is converted to sRGB.

- **16 bits** per channel of grey, RGB and both with transparency are read from PNG and TIFF, restored in floats and
  written into these formats; the others get 8, rounded. CMYK of 16 bits and the frames of an animation are read with 8.
- **Grey** stays grey, unless the model put real colour into it (`--grey`). A palette becomes RGB, 1 bit becomes 8-bit
  grey, CMYK becomes RGB through its profile, which is then dropped. A remark names every loss. WebP knows no grey,
  AVIF (with older Pillow) and HEIC none with transparency: what comes back has three channels, equal or nearly so.
- **Orientation** is applied once; the tag says upright afterwards, in EXIF and in XMP. The **thumbnail** of the small
  picture is dropped. TIFF takes over descriptive tags, EXIF, GPS and the place of a GeoTIFF, which other formats do not
  hold; a remark names the other tags of its page.
- **Colour**: a picture in Display P3, Adobe RGB or another space of three primaries is converted to sRGB for the
  networks and back, in floats, with what lies outside sRGB carried around them. The profile stays the same.
  Profiles made of tables (printers, scanners) and grey ones are not converted: their values go through as they are
  stored.
- **Colour stated without a profile** becomes a profile, which the result keeps: cICP, sRGB, gAMA and cHRM of PNG (in
  this order; a profile comes behind cICP), nclx of AVIF and HEIC, versions 4 and 5 of BMP, white point and primaries of
  TIFF, Adobe RGB in EXIF
  (ColorSpace 2, or Interoperability R03). HDR (PQ, HLG) is refused. A profile for other channels than those written
  (RGB in a grey PNG, grey in WebP) is replaced by one with the same curve, and a remark says so.
- **Raw files** (DNG, CR2, NEF, ARW ...) are refused: decoders show only their preview. Of a TIFF whose first page is a
  reduced copy, the full picture is read.
- **TIFF** of grey, RGB, CMYK and Lab, with or without transparency, of 1 to 64 bits per channel or floats (cut to the
  range from 0 to 1), in strips, tiles or planes is read, with 16 bits where it has more than 8; Lab is converted to
  sRGB. Masks and spot colours are left out, and a remark says so. A kind of pixels that is not read is named: signed
  and complex numbers, channels of several depths, inks other than CMYK, palettes of 16 bits.
- **Damaged chunks** of a PNG around its pixels, a damaged colour profile and stated colours that make no sense are left
  out, and a remark says so. A PNG of narrow range (cICP), as of video, is refused.
- **Transparency** is enlarged along the edges of the restored colours (`--alpha guided`) or by bicubic interpolation
  (`--alpha bicubic`). Colours under fully transparent pixels are replaced by those around them before anything is
  computed, so that they cannot reach the visible edge. GIF holds whole transparency only: half a pixel becomes clear
  below one half, opaque above.

Not kept, and a remark says so: 10 and 12 bits of AVIF (read with 8), pixels that are not square where no pixels per
inch are stated.

## Metadata

- **EXIF** is changed in place, so that maker notes stay valid; they describe the exposure and are not changed, but for
  Apple's link to the video of a live picture. From and into a TIFF the block is written anew: maker notes that point
  to places in the old one (Canon, Sony, Panasonic ..) are left out, and a remark says so; others are kept. A block of
  several JPEG segments is joined and written so again.
- **XMP** is read as a tree, and stays to the byte where nothing has to change. Extended XMP is merged, and split again
  where a JPEG needs it. A packet that is damaged or declares entities is left out, and a remark says so.
- **IPTC** captions and keywords are kept with their stated character set, together with Photoshop's copyright flag and
  address, angles of light and settings for print. Datasets about one file's raster and its preview are dropped.
- **Second places** are read: PNG's texts of ImageMagick (raw profiles of EXIF, XMP, IPTC), TIFF's tags 0x8649 and
  0x83BB, Windows' tags (XPTitle ..), ratings, document and computer names.
- **Texts** of PNG (title, author, generation parameters), several of one keyword too, and the comments of JPEG and GIF
  are kept; a JPEG or GIF takes the text of the keyword Comment.
- **Further contents of the file** are left behind and named: gain maps (Ultra HDR, Apple, ISO 21496-1), the video of
  motion pictures, depth, sound, further pictures, Content Credentials, segments and chunks that are not read
  (tIME, bKGD, sBIT ..), data behind the end (not of a TIFF, which has none), second blocks of EXIF or XMP, tags of a
  TIFF's page, Photoshop's paths, layers and other resources. XMP's claims about them are dropped with them. Previews
  and thumbnails go without a remark.

Coordinates and sizes follow the picture: its turn upright, a cut (`--size-mode fill`) and its scale. A field that
cannot follow is left out, and a remark says so.

(the table of coordinates)

## What a result says of itself

Results state in XMP how they were made, in every format that holds it: {_WITH_XMP}. Where a
format does not ({_WITHOUT_XMP}), a remark says so. `--no-provenance` leaves the statement out; what the
input states of its own making, an earlier restoration too, then stays as it is. The statement holds no time and no
place, so that equal inputs give equal bytes.

- `Iptc4xmpExt:DigitalSourceType`: `algorithmicallyEnhanced` for a model that invents nothing, such as `compact`;
  `compositeWithTrainedAlgorithmicMedia` for one that can. The field `is_generative` of the model's `config.json`
  decides; a model without it counts as generative.
- `xmp:CreatorTool`: s3diff and its version.
- `s3diff:Restorations` (namespace `urn:s3diff:restoration:1/`): a list of structures with model, fingerprint, version,
  every option (prompts too), degrees used and estimated, precision, device, quality, the SHA-256 of the input's
  pixels and, where no value of `--tile` means them, each network's tiles. A picture that is restored again keeps the
  entry of its first restoration before the new one. Each page of a TIFF states its own.
- **What the input stated** is never replaced by something weaker: AI (`trainedAlgorithmicMedia`), composites, drawings
  and types that are not known stay, a capture becomes the model's type. A replaced statement (CreatorTool, a capture's
  type) stands in the structure (`InputCreatorTool`, `InputDigitalSourceType`), and a remark says so. The input's
  Content Credentials hold for its own bytes and are left behind; AI that they state becomes the DigitalSourceType.

`s3diff inspect FILE` prints all of it (`--json` for programs). `s3diff restore --from-result RESULT INPUT -o OUT` takes
model, options, degrees, precision and quality from a result and makes the same bytes again, on a machine of the same
kind with the same versions; what differs, an input that is not the one, and a model of another fingerprint are said. A
model that has no name in s3diff is given with `--model`.

### Content Credentials

`s3diff restore --sign CERT KEY` (the extra `provenance`, `pip install -c constraints.txt ".[provenance]"`) signs
results as Content Credentials (C2PA): `c2pa.enhanced`, or `c2pa.edited` for a generative model, with the structure
above, and the input as ingredient, with its own Content Credentials where it has some. PNG, JPEG, WebP, TIFF, AVIF,
HEIC and GIF hold them, also animated; BMP and `--stream` are refused. CERT is a PEM file, the signer's certificate
first, then those that vouch for it; it needs the key usage `digitalSignature` and an extended one that C2PA knows, such
as `emailProtection`. KEY is its private key, PEM (PKCS 8), not encrypted. Nothing is fetched and no time stamp is asked
for, so a signature is not believed after its certificate has ended. Signed files differ from run to run;
`--from-result` makes what was signed. `s3diff inspect` says whether a signature holds (exit code 1 if not), and whether
its certificate is on a list of trusted ones, which one that you make yourself is not. From Python:
`result.save(path, signer=ResultSigner(cert, key))`, of `s3diff.images.files.credentials`.

## Animations

{ANIMATED_TITLES} (APNG is a PNG) of several frames is restored frame by frame, as a viewer shows them, into any of
these: `s3diff restore a.gif -o a.webp`, in a folder `--format webp`. From Python: `Restorer.restore_animation(source,
target, options, progress=...)`. Into a format of one picture the first frame goes, and a remark says so.

- **Durations** and the **number of plays** are kept; GIF counts in hundredths of a second, rounded so that the length
  stays, and AVIF is always shown for ever. A GIF's stored number is that of repetitions, one less than that of plays.
- **Frames** are whole pictures in the result: what the source left standing or cleared between them is already in them.
- **Against flicker** all frames are restored for the same degrees of blur and noise, the median of what the estimator
  says of five of them, and with the same seed. A GIF's colours stay from frame to frame as long as they fit.
- **Memory** holds one frame at a time; WebP and AVIF also keep the compressed frames. All frames together may have 16
  times the pixels of `--max-megapixels`. An interruption ends between two frames or within one, and leaves no file.
- An APNG's picture for viewers that show no animation is left out.

## Pages

A TIFF of several pages, as scanners and fax machines write them, becomes a TIFF of as many: `s3diff restore scan.tif -o
restored.tif`, in a folder without further ado. `--pages 1,3-5` takes some of them, and one page goes into any format:
`--pages 3 -o page3.png`. Into a format of one picture the first page goes otherwise, and a remark says so. From Python:
`Restorer.restore_pages(source, target, options, progress=...)`, `RestoreOptions(pages="1,3-5")`.

- **Each page** is a picture of its own: its size, depth, colours, transparency, profile, DPI and metadata stay its own,
  and blur and noise are estimated for each. The printed values are the medians of all pages.
- The result is compressed without loss; beyond 4 GB it is a BigTIFF. One page at a time is in memory; all pages
  together may have 16 times the pixels of `--max-megapixels`. An interruption leaves no file.
- Reduced copies and masks that a file marks as such are no pages. `--stream` takes the first page, and a remark says
  so.

## HEIC

The extra `heif`, `pip install -c constraints.txt ".[heif]"`, reads and writes HEIC. More than 8 bits are read with all
of them and written with 10. The extra's package, pillow-heif, is BSD-3-Clause, but its wheels bundle x265
(GPL-2.0), libheif and libde265 (LGPL-3.0): mind this before you pass them on.
For reading only, `pip install pi-heif` is enough, whose wheels hold just the last two; results then go into another
format, in a folder PNG.

## Larger than memory

`s3diff restore scan.tif -o large.tif --stream` (the extra `large`; automatic where a `.tif` would
have more pixels than `--max-megapixels`) reads a TIFF, PNG or JPEG part by part and writes a tiled, losslessly
compressed BigTIFF. Tiled TIFF is read where it is needed; libvips decodes the others once, beyond 100 MB into a
temporary file (`TMPDIR`). At a scale of 4 and above the result is the one that memory would have given, within one
grey level; 16 bits of colour pictures are kept, too. From Python: `Restorer.restore_file(source, target, options,
progress=...)`.

- RGB and grey, 8 and 16 bits. Colour profile and DPI are kept; EXIF, XMP, IPTC and texts are not, and a remark says
  so. Wide-gamut colours go through the networks as they are stored, and a remark says so.
- Refused in one line: transparency, CMYK, other formats; `--strength` below 1, `--size-mode fill` that cuts,
  `--restore-at model` at another scale than 4, `--latent sample`; a model with attention or group norm (`s3diff`),
  which needs the whole picture. The networks work at the output's size, also below a scale of 4.
- During the work the pixels lie in a hidden, uncompressed file next to the target; finished tiles are recorded one by
  one. After an interruption or a power cut the same command goes on with the next tile and gives the same bytes.
  Another source, model or option begins anew. To give up, delete `.NAME.s3diff-*`.

## Folders

`s3diff restore FOLDER -r -o OUT` mirrors the tree below `FOLDER`. Patterns (`'photos/**/*.jpg'`) and lists
(`--list FILE`, `--list -`) mirror the tree below the part without wildcards, and below the files' common folder. With
`--format` every result gets that format; where two would get one name (`a.png`, `a.jpg`), the one that changes keeps
its old ending inside: `a.jpg.png`.

Finished pictures are recorded in `OUT/.s3diff-journal.jsonl` (elsewhere: `--journal`). The same command goes on after
an interruption, a killed process or a power cut. A picture counts as done if its result is there and its source has the
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


def _said(has: bool) -> str:
    return "yes" if has else "no"


def _texts(form: Format) -> str:
    return "yes" if form.has_texts else "comment" if form.has_comment else "no"


def _coordinates() -> str:
    """Write the table of fields, one line for each place and title."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for field in FIELDS:
        names = [field.title] if field.is_exif else [str(name) for name in field.names]
        how = (field.follow.__doc__ or "").split("\n")[0].rstrip(".")
        found = lines.setdefault((field.place, field.title, how), [])
        found += [name for name in names if name not in found]
    ground = (follow_position.__doc__ or "").split("\n")[0].rstrip(".")
    lines["IFD0", "", ground] = ["ModelPixelScale, ModelTiepoint and ModelTransformation of a GeoTIFF"]
    layout = (with_layout.__doc__ or "").rstrip(".")
    lines["IPTC", "", layout] = ["ImageOrientation"]
    rows = [f"| {place} | {', '.join(names)} | {how} |\n" for (place, _, how), names in lines.items()]
    return "| place | field | what happens |\n|---|---|---|\n" + "".join(rows)


def _row(form: Format) -> str:
    bits = ", ".join(map(str, form.bits))
    held = (form.has_alpha, form.has_profile, form.has_exif, form.has_xmp, form.has_iptc)
    cells = (form.title, ", ".join(form.extensions), bits, *map(_said, held), _texts(form), form.dpi)
    return f"| {' | '.join(cells)} | {_said(form.has_frames)} | {_said(form.has_pages)} |\n"


def page() -> str:
    """Write the whole page."""
    return _BEFORE + "".join(map(_row, FORMATS)) + _AFTER.replace(_COORDINATES_HERE, _coordinates())


if __name__ == "__main__":
    print(page(), end="")
