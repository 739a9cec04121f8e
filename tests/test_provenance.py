"""Results say what they are: statements in XMP, the same bytes made again from them, and what becomes of an input's."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from command_runs import Command
from s3diff import RestoreOptions, Restorer
from s3diff.checkpoints.model_folder import load_model, read_description
from s3diff.checkpoints.registry import model_folder
from s3diff.errors import OptionError, PictureError
from s3diff.formats import FORMATS, Format
from s3diff.images.files.dropped_contents import CREDENTIALS
from s3diff.images.files.provenance_inspection import inspect_file
from s3diff.images.files.provenance_xmp import NAMESPACE, statement_of, with_restoration
from s3diff.images.files.reading import read_picture
from s3diff.images.files.writing import write_picture
from s3diff.images.files.xmp_packet import XmpPacket
from s3diff.images.picture import Picture
from s3diff.images.provenance import COMPOSITE, ENHANCED, GENERATED, SOURCE_TYPES, Provenance, options_of_json

MADE = Provenance(
    model="compact",
    fingerprint="sha256:0",
    version="0.1.0",
    is_generative=False,
    precision="float32",
    device="cpu",
    options=RestoreOptions(positive_prompt='a <b> & "c" \x01 ü', noise="+0.2", size=(30, 20)),
    blur=0.1 + 2**-20,
    noise=0.25,
    estimated_blur=0.5,
    estimated_noise=1.0,
)
IPTC = 'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
XMP_HOLDERS = [form for form in FORMATS if form.has_xmp]


@pytest.fixture
def photo() -> np.ndarray:
    """[12, 16, 3] uint8."""
    return np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)


def packet(inside: str, attributes: str = "") -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="uuid:1" {attributes} {IPTC} xmlns:xmp="http://ns.adobe.com/xap/1.0/">{inside}'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    ).encode()


def source_type_after(stated: str, made: Provenance = MADE) -> tuple[str, tuple[str, ...]]:
    inside = f"<Iptc4xmpExt:DigitalSourceType>{stated}</Iptc4xmpExt:DigitalSourceType>"
    made_packet, notes = with_restoration(packet(inside), made)
    return statement_of(made_packet).source_type.removeprefix(SOURCE_TYPES), notes


@pytest.mark.parametrize("before", [None, packet("<xmp:Rating>3</xmp:Rating>"), packet("", 'xmp:CreatorTool="A 1"')])
def test_statement_comes_back_as_it_was_made(before: bytes | None) -> None:
    made_packet, _ = with_restoration(before, replace(MADE, quality=80))
    stated = statement_of(made_packet)
    tool = "A 1" if before is not None and b"A 1" in before else ""
    assert stated.restorations == (replace(MADE, quality=80, input_creator_tool=tool),)
    assert (stated.creator_tool, stated.source_type) == ("s3diff 0.1.0", SOURCE_TYPES + ENHANCED)
    abouts = {each.getAttribute("rdf:about") for each in XmpPacket(made_packet).descriptions()}
    assert abouts == {"" if before is None else "uuid:1"}  # one packet speaks of one picture
    if before is not None and b"Rating" in before:
        assert b"<xmp:Rating>3</xmp:Rating>" in made_packet


def test_second_restoration_is_appended_to_the_first() -> None:
    once, _ = with_restoration(None, MADE)
    twice, notes = with_restoration(once, replace(MADE, model="other", is_generative=True))
    # A program of others may have written our packet anew with another prefix.
    renamed = twice.replace(b"<s3diff:", b"<ns1:").replace(b"</s3diff:", b"</ns1:").replace(b":s3diff=", b":ns1=")
    thrice, _ = with_restoration(renamed, replace(MADE, model="third"))
    assert [each.model for each in statement_of(thrice).restorations] == ["compact", "other", "third"]
    assert statement_of(thrice).source_type == SOURCE_TYPES + COMPOSITE  # the second one's work is still in it
    assert thrice.count(b"DigitalSourceType>http") == 1 + 2  # its own, and those of the two inputs that stated one
    assert not any("CreatorTool" in note for note in notes)  # it is s3diff's own


@pytest.mark.parametrize(
    ("stated", "enhanced", "composed"),
    [
        ("digitalCapture", ENHANCED, COMPOSITE),
        (SOURCE_TYPES + "computationalCapture", ENHANCED, COMPOSITE),
        (SOURCE_TYPES + "digitalCreation", "digitalCreation", COMPOSITE),
        (SOURCE_TYPES + COMPOSITE, COMPOSITE, COMPOSITE),
        (SOURCE_TYPES + GENERATED, GENERATED, GENERATED),
        ("http://example.org/of-another-vocabulary", "http://example.org/of-another-vocabulary", COMPOSITE),
    ],
)
def test_source_type_never_says_less_of_synthesis_than_before(stated: str, enhanced: str, composed: str) -> None:
    for made, expected in ((MADE, enhanced), (replace(MADE, is_generative=True), composed)):
        found, notes = source_type_after(stated, made)
        assert found == expected
        assert any(stated in note for note in notes) == (SOURCE_TYPES + found != stated and found != stated)


@pytest.mark.parametrize(
    "form",
    [
        packet("", f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPES}{GENERATED}"'),
        packet(f'<Iptc4xmpExt:DigitalSourceType rdf:resource="{SOURCE_TYPES}{GENERATED}"/>'),
        packet(f"<Iptc4xmpExt:DigitalSourceType> {SOURCE_TYPES}{GENERATED}\n</Iptc4xmpExt:DigitalSourceType>"),
    ],
)
def test_source_type_is_found_in_every_form_of_rdf(form: bytes) -> None:
    made_packet, _ = with_restoration(form, MADE)
    assert statement_of(made_packet).source_type == SOURCE_TYPES + GENERATED
    assert statement_of(made_packet).restorations[0].input_source_type == SOURCE_TYPES + GENERATED


def test_type_of_a_model_is_a_field_of_its_description(tmp_path: Path, small: Path) -> None:
    assert read_description(model_folder("compact")).is_generative is False
    folder = tmp_path / "compact"  # the name decides nothing
    shutil.copytree(small, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "name": "compact", "is_generative": True}))
    assert load_model(folder).description.is_generative is True
    del config["is_generative"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder, verify=True).description.is_generative is True  # not said: the stronger statement


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_every_format_states_it_or_says_that_it_cannot(
    form: Format, tmp_path: Path, restorer: Restorer, photo: np.ndarray
) -> None:
    result = restorer.restore(photo)
    path = tmp_path / f"result{form.extensions[0]}"
    notes = result.save(path, quality=70)
    assert any("holds no XMP; how the result was made" in note for note in notes) == (not form.has_xmp)
    stated = statement_of(read_picture(path).xmp).restorations
    expected = replace(result.provenance, quality=70 if form.has_quality else None)
    assert stated == ((expected,) if form.has_xmp else ())
    result.save(tmp_path / f"plain{form.extensions[0]}", quality=70, provenance=False)
    assert b"Restorations" not in (tmp_path / f"plain{form.extensions[0]}").read_bytes()


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool, an independent reader, is not installed")
@pytest.mark.parametrize("form", XMP_HOLDERS, ids=lambda form: form.name)
def test_exiftool_shows_the_source_type(form: Format, tmp_path: Path, restorer: Restorer, photo: np.ndarray) -> None:
    path = tmp_path / f"result{form.extensions[0]}"
    restorer.restore(photo).save(path)
    command = ["exiftool", "-j", "-validate", "-warning", "-XMP:all", str(path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)[0]
    assert told["DigitalSourceType"].startswith(SOURCE_TYPES)
    assert told["CreatorTool"].startswith("s3diff ")
    assert told["RestorationsFingerprint"] == restorer.model.fingerprint
    assert json.loads(told["RestorationsOptions"])["scale"] == 4.0


@pytest.mark.parametrize("term", [GENERATED, COMPOSITE])
def test_ai_that_only_content_credentials_state_is_still_stated(term: str, tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    manifest = f"x{SOURCE_TYPES}{GENERATED}x{SOURCE_TYPES}{term}x".encode()
    chunks.add(b"caBX", manifest)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "input.png", pnginfo=chunks)
    picture = read_picture(tmp_path / "input.png")
    assert any(CREDENTIALS in note for note in picture.notes)
    assert any(term in note for note in picture.notes)
    write_picture(replace(picture, provenance=MADE), tmp_path / "result.png")
    assert statement_of(read_picture(tmp_path / "result.png").xmp).source_type == SOURCE_TYPES + term


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"scale":"x"}', '{"new_option":1}', '{"released_tiles":{"x":1}}', '{"max_file_bytes":1}']
)
def test_options_of_strangers_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        options_of_json(text)
    assert "\n" not in str(caught.value)


def test_damaged_statement_is_refused_in_one_line() -> None:
    good, _ = with_restoration(None, MADE)
    for before, after in ((b"0.25<", b"nan<"), (b"0.25<", b"7<"), (b"s3diff:Model>", b"s3diff:Mode>")):
        assert before in good
        with pytest.raises(PictureError, match="statement of its restoration cannot be read"):
            statement_of(good.replace(before, after))
    assert statement_of(b"no packet") == statement_of(None)
    assert NAMESPACE.encode() in good


def test_picture_in_memory_states_nothing_unless_it_was_restored(tmp_path: Path) -> None:
    write_picture(Picture(np.zeros((2, 2, 3), np.uint8)), tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").xmp is None


REPLAYED = [
    *((form.extensions[0], ["--scale", "2", "--noise", "+0.1"]) for form in XMP_HOLDERS),
    (".jpg", ["--quality", "71", "--size", "31x17", "--size-mode", "fill", "--strength", "0.7"]),
    (".png", ["--restore-at", "model", "--scale", "1.5", "--latent", "sample", "--seed", "7", "--tile", "256"]),
]


@pytest.mark.parametrize(("extension", "flags"), REPLAYED)
def test_the_same_bytes_are_made_again_from_a_result(
    extension: str, flags: list[str], here: Path, command: Command, small: Path, photo: np.ndarray
) -> None:
    Image.fromarray(photo).save("in.png")
    model = ["--model", str(small)]
    assert command("restore", "in.png", "-o", f"first{extension}", *model, *flags).code == 0
    again = command("restore", "in.png", "-o", f"again{extension}", *model, "--from-result", f"first{extension}")
    assert again.code == 0, again.err
    assert Path(f"again{extension}").read_bytes() == Path(f"first{extension}").read_bytes()
    assert "may differ" not in again.err


def test_animations_and_streamed_pictures_are_made_again(
    here: Path, command: Command, small: Path, photo: np.ndarray
) -> None:
    frames = [Image.fromarray(np.roll(photo, shift, axis=1)) for shift in range(3)]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:], duration=40)
    frames[0].save("in.png")
    for source, name, flags in (("in.gif", "a.webp", ["--scale", "2"]), ("in.png", "b.tif", ["--stream"])):
        if flags == ["--stream"]:
            pytest.importorskip("pyvips")
        model = ["--model", str(small)]
        assert command("restore", source, "-o", name, *model, *flags).code == 0
        again = command("restore", source, "-o", f"again-{name}", *model, "--from-result", name)
        assert again.code == 0, again.err
        assert Path(f"again-{name}").read_bytes() == Path(name).read_bytes()
        assert inspect_file(name).statement.restorations[0].is_streamed == (flags == ["--stream"])


def test_what_cannot_be_made_again_is_said(here: Path, command: Command, small: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save("in.png")
    Image.fromarray(255 - photo // 3).save("other.png")
    model = ["--model", str(small)]
    assert command("restore", "in.png", "-o", "made.png", *model).code == 0
    again = ["--from-result", "made.png"]
    for arguments, told in (
        (["in.png", "-o", "x.png", *model, "--from-result", "in.png"], "does not state how it was made"),
        (["in.png", "-o", "x.png", *model, *again, "--scale", "2"], "--scale exclude each other"),
        (["in.png", "-o", "x.png", *model, *again, "--quality", "3"], "--quality exclude each other"),
        (["in.png", "-o", "x.png", *model, *again, "--stream"], "was not made with --stream"),
        (["in.png", "other.png", "-o", "x/", *model, *again], "takes the one picture"),
        (["in.png", "-o", "x.png", *again], "none of compact, s3diff"),
        (["in.png", "-o", "x.png", *again, "--model", "compact"], "give that model's folder with --model"),
        (["in.png", "-o", "x.png", *again, "--server", "http://127.0.0.1:1"], "--server exclude each other"),
    ):
        refused = command("restore", *arguments)
        assert refused.code in (1, 2)
        assert told in " ".join(refused.err.split())
        assert not Path("x.png").exists()
    strange = command("restore", "other.png", "-o", "x.png", *model, *again)
    assert strange.code == 0
    assert "the input is not the one that made.png was made of" in " ".join(strange.err.split())


def test_inspect_prints_what_a_file_says(here: Path, command: Command, small: Path, photo: np.ndarray) -> None:
    Image.fromarray(photo).save("in.png")
    assert command("restore", "in.png", "-o", "out.jpg", "--model", str(small), "--scale", "2").code == 0
    told = command("inspect", "out.jpg")
    assert (told.code, "--scale 2" in told.out, "signature     none" in told.out) == (0, True, True)
    assert COMPOSITE in told.out  # a model that does not say that it invents nothing
    values = json.loads(command("inspect", "out.jpg", "--json").out)
    assert values["restorations"][0]["options"]["scale"] == 2
    assert values["credentials"] is None
    assert "says nothing" in command("inspect", "in.png").out
    Path("no.png").write_bytes(b"no picture")
    assert command("inspect", "no.png").code == 1
    Path("folder").mkdir()
    assert command("inspect", "folder").err == "s3diff: folder is a folder; give a picture file\n"


def test_inspect_tells_of_every_page(here: Path, command: Command, small: Path, photo: np.ndarray) -> None:
    pages = [Image.fromarray(photo), Image.fromarray(photo[:10])]
    pages[0].save("in.tif", save_all=True, append_images=pages[1:])
    assert command("restore", "in.tif", "-o", "out.tif", "--model", str(small), "--scale", "1").code == 0
    told = command("inspect", "out.tif").out
    assert [line for line in told.splitlines() if line.startswith("page")] == ["page 1 of 2", "page 2 of 2"]
    assert told.count("restored      with") == 2
    values = json.loads(command("inspect", "out.tif", "--json").out)
    (further,) = values["further_pages"]
    digests = [each["restorations"][0]["input_digest"] for each in (values, further)]
    assert len(set(digests)) == 2
