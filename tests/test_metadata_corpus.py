"""Every file of the corpus into its own format and into others: each field is there, or a remark names its kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import features

from metadata_corpus import CORPUS, SIZE, WORDS, Case
from metadata_probes import fields_of, needs_exiftool, through
from test_coordinates import ORIENTATIONS
from test_dropped_contents import CASES

#: Files of this table, of the attachments' and of the coordinates'.
NUM_FILES = len(CORPUS) + len(CASES) + len(ORIENTATIONS)
READABLE = [case for case in CORPUS if case.extension != ".avif" or features.check("avif")]
TARGETS = (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp")
#: Fields that other formats call otherwise.
OTHER_NAMES = {"File:Comment": ("PNG:Comment",)}


def test_the_corpus_is_large_enough() -> None:
    assert NUM_FILES >= 60
    assert len({(case.name, case.extension) for case in CORPUS}) == len(CORPUS)


def written(case: Case, folder: Path, extension: str) -> tuple[Path, tuple[str, ...]]:
    name = case.name.replace(" ", "-")
    source, target = folder / f"{name}{case.extension}", folder / f"{name}-to{case.extension}{extension}"
    source.write_bytes(case.content)
    return target, through(source, target)


@needs_exiftool
def test_a_result_of_the_same_format_says_what_its_picture_said(tmp_path: Path) -> None:
    results = [(case, *written(case, tmp_path, case.extension)) for case in READABLE]
    for (case, _, notes), found in zip(results, fields_of([target for _, target, _ in results]), strict=True):
        allowed = [note for note in notes if case.extension != ".gif" or "256 colours" not in note]
        assert allowed == [], case.name
        assert {name: found.get(name) for name in case.fields} == case.fields, case.name
        assert not any("Preview" in name or name == "IPTC:IPTCImageWidth" for name in found), case.name
        assert found["Composite:ImageSize"] == f"{2 * SIZE[0]} {2 * SIZE[1]}"


@needs_exiftool
@pytest.mark.parametrize("extension", TARGETS)
def test_nothing_is_lost_without_a_word(tmp_path: Path, extension: str) -> None:
    results = [(case, *written(case, tmp_path, extension)) for case in READABLE if case.extension != extension]
    for (case, _, notes), found in zip(results, fields_of([target for _, target, _ in results]), strict=True):
        for name, value in case.fields.items():
            shown = next((found[each] for each in (name, *OTHER_NAMES.get(name, ())) if each in found), None)
            if shown == value or (isinstance(value, list) and shown == "\n".join(map(str, value))):
                continue
            word = WORDS.get(name.split(":")[0].split("-")[0], "IPTC")
            assert any(word in note for note in notes), (case.name, name, shown, notes)
