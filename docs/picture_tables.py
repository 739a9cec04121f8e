"""Write the tables of ``docs/pictures.md`` anew from the code: formats, and fields in picture coordinates.

python docs/picture_tables.py            # into docs/pictures.md
python docs/picture_tables.py --print    # only print the tables
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from s3diff.formats import FORMATS, Format
from s3diff.images.files.coordinate_fields import FIELDS
from s3diff.images.files.geotiff import follow_position
from s3diff.images.files.iptc import with_layout

PAGE = Path(__file__).with_name("pictures.md")
#: Heads of the tables; the lines that follow and begin with | belong to them.
FORMATS_HEAD = (
    "| format | extensions | bits | transparency | profile | EXIF | XMP | IPTC | texts | DPI | animation | pages |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)
FIELDS_HEAD = "| place | field | what happens |\n|---|---|---|\n"


def formats_table() -> str:
    """Write a row for each format."""
    return FORMATS_HEAD + "".join(map(_row, FORMATS))


def fields_table() -> str:
    """Write a row for each place and title of fields."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for field in FIELDS:
        names = [field.title] if field.is_exif else [str(name) for name in field.names]
        found = lines.setdefault((field.place, field.title, _summary(field.follow)), [])
        found += [name for name in names if name not in found]
    lines["IFD0", "", _summary(follow_position)] = [
        "ModelPixelScale, ModelTiepoint and ModelTransformation of a GeoTIFF"
    ]
    lines["IPTC", "", _summary(with_layout)] = ["ImageOrientation"]
    return FIELDS_HEAD + "".join(
        f"| {place} | {', '.join(names)} | {how} |\n" for (place, _, how), names in lines.items()
    )


def with_tables(page: str) -> str:
    """Replace both tables of a page."""
    for head, table in ((FORMATS_HEAD, formats_table()), (FIELDS_HEAD, fields_table())):
        page, count = re.subn(re.escape(head) + r"(?:\|.*\n)*", lambda _, table=table: table, page)
        assert count == 1, f"{PAGE} has {count} tables with the head {head!r}"
    return page


def _summary(function: object) -> str:
    return (function.__doc__ or "").split("\n")[0].rstrip(".")


def _said(has: bool) -> str:
    return "yes" if has else "no"


def _row(form: Format) -> str:
    texts = "yes" if form.has_texts else "comment" if form.has_comment else "no"
    held = (form.has_alpha, form.has_profile, form.has_exif, form.has_xmp, form.has_iptc)
    cells = (form.title, ", ".join(form.extensions), ", ".join(map(str, form.bits)), *map(_said, held), texts, form.dpi)
    return f"| {' | '.join(cells)} | {_said(form.has_frames)} | {_said(form.has_pages)} |\n"


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(formats_table(), fields_table(), sep="\n", end="")
    else:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
