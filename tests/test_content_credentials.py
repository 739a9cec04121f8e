"""Results signed as Content Credentials (C2PA), with certificates that are made here."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from command_runs import Command
from s3diff import RestoreOptions, Restorer
from s3diff.errors import OptionError, OutputError
from s3diff.formats import FORMATS, Format
from s3diff.images.files.provenance_inspection import inspect_file
from s3diff.images.files.provenance_xmp import statement_fields
from s3diff.images.files.writing import can_be_written
from s3diff.restoration.result import Result
from s3diff.serving.http.api import create_app
from s3diff.serving.limits import ServiceSettings
from s3diff.serving.service import RestorationService

c2pa = pytest.importorskip("c2pa", reason="needs the extra provenance")

from cryptography import x509  # noqa: E402 - comes with c2pa-python
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

from s3diff.images.files.content_credentials import ResultSigner, read_credentials  # noqa: E402

Signing = tuple[Path, Path]
SIGNED = [form for form in FORMATS if form.name != "BMP"]
#: Where in a file a byte belongs to pixels: behind its metadata, but in WebP, which begins with them.
PLACES = {"WEBP": 0.4}
_USAGES = (
    "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
)  # fmt: skip


def certificate(subject: str, issuer: str, key: Any, by: Any, usage: str) -> x509.Certificate:
    """A certificate of version 3 as C2PA asks for; ``by``: the issuer's private key."""

    def named(text: str) -> x509.Name:
        parts = ((NameOID.COMMON_NAME, text), (NameOID.ORGANIZATION_NAME, "Tests"))
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])

    now = datetime.datetime.now(datetime.timezone.utc)
    is_root = subject == issuer
    builder = (
        x509.CertificateBuilder(named(issuer), named(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{name: name == usage for name in _USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(by, hashes.SHA256())


def files_of(folder: Path, key: Any, usage: str = "digital_signature") -> Signing:
    """The certificate with its root, and the key, as PEM files."""
    root = ec.generate_private_key(ec.SECP256R1())
    chain = (certificate("Anna", "Root", key, root, usage), certificate("Root", "Root", root, root, "key_cert_sign"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cert.pem").write_bytes(b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    return files_of(tmp_path_factory.mktemp("signing"), ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, restorer: Restorer) -> Result:
    source = tmp_path_factory.mktemp("input") / "in.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)).save(source)
    return restorer.restore(source, RestoreOptions(scale=2))


def with_changed_pixel(path: Path, form: Format, unsigned: bytes) -> Path:
    """A copy of a signed file of which one byte of the pixels is another one."""
    data, place = bytearray(path.read_bytes()), int(len(unsigned) * PLACES.get(form.name, 0.9))
    found = data.find(unsigned[place : place + 12])
    assert found >= 0, "the pixels are stored as they were"
    data[found + 4] ^= 1
    changed = path.with_name(f"changed{path.suffix}")
    changed.write_bytes(data)
    return changed


@pytest.mark.parametrize("form", SIGNED, ids=lambda form: form.name)
def test_a_signed_result_verifies_and_a_changed_pixel_does_not(
    form: Format, tmp_path: Path, signing: Signing, result: Result
) -> None:
    if not can_be_written(form.extensions[0]):
        pytest.skip(f"{form.title} is not written here")
    path, plain = tmp_path / f"result{form.extensions[0]}", tmp_path / f"plain{form.extensions[0]}"
    result.save(path, signer=ResultSigner(*signing))
    result.save(plain)
    found = inspect_file(path)
    signed = found.credentials
    assert signed is not None
    assert (signed.holds, signed.is_trusted, signed.failures) == (True, False, ())
    assert (signed.signer, signed.organisation, signed.inputs) == ("Anna", "Tests", ("in.png",))
    assert signed.actions == ("c2pa.opened", "c2pa.edited")  # the tiny model does not say that it invents nothing
    assert result.provenance is not None
    assert dict(signed.restoration) == statement_fields(result.provenance)
    if form.has_xmp:
        assert signed.source_type == found.statement.source_type
        assert len(found.statement.restorations) == 1
    changed = inspect_file(with_changed_pixel(path, form, plain.read_bytes()))
    assert changed.credentials is not None
    assert not changed.is_intact
    assert any(code.endswith("mismatch") for code in changed.credentials.failures), changed.credentials


def test_a_changed_pixel_of_a_picture_that_still_opens(tmp_path: Path, signing: Signing, result: Result) -> None:
    path = tmp_path / "result.tif"
    result.save(path, signer=ResultSigner(*signing))
    before = np.asarray(Image.open(path)).copy()
    data = bytearray(path.read_bytes())
    data[data.find(before.tobytes()[:64]) + 7] ^= 1
    path.write_bytes(data)
    assert (np.asarray(Image.open(path)) != before).sum() == 1
    assert not inspect_file(path).is_intact


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool, an independent reader, is not installed")
def test_exiftool_reads_the_actions(tmp_path: Path, signing: Signing, result: Result) -> None:
    assert result.provenance is not None
    made = replace(result.picture, provenance=replace(result.provenance, is_generative=False))
    path = tmp_path / "result.jpg"
    replace(result, in_memory=made).save(path, signer=ResultSigner(*signing))
    shown = subprocess.run(["exiftool", "-j", "-a", "-G3", str(path)], capture_output=True, text=True, check=True)
    told = json.dumps(json.loads(shown.stdout)[0])
    assert "c2pa.opened" in told
    assert "c2pa.enhanced" in told  # of a model that invents nothing
    assert "digitalsourcetype/algorithmicallyEnhanced" in told


def test_credentials_of_the_input_are_carried(tmp_path: Path, signing: Signing, restorer: Restorer) -> None:
    signer = ResultSigner(*signing)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in.png")
    restorer.restore(tmp_path / "in.png").save(tmp_path / "once.jpg", signer=signer)
    restorer.restore(tmp_path / "once.jpg").save(tmp_path / "twice.png", signer=signer)
    with c2pa.Reader("image/png", io.BytesIO((tmp_path / "twice.png").read_bytes())) as reader:
        told = json.loads(reader.json())
    assert len(told["manifests"]) == 2
    assert told["validation_state"] == "Valid"
    array = restorer.restore(np.zeros((8, 8, 3), np.uint8))  # no file was opened
    array.save(tmp_path / "made.png", signer=signer)
    signed = inspect_file(tmp_path / "made.png").credentials
    assert signed is not None
    assert (signed.holds, signed.actions, signed.inputs) == (True, ("c2pa.created", "c2pa.edited"), ())


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
    ],
    ids=["P-384", "RSA", "Ed25519"],
)
def test_every_kind_of_key_signs(make: Any, tmp_path: Path, result: Result) -> None:
    result.save(tmp_path / "a.png", signer=ResultSigner(*files_of(tmp_path, make())))
    signed = inspect_file(tmp_path / "a.png").credentials
    assert signed is not None
    assert signed.holds, signed


def test_what_cannot_sign_is_said_in_one_line(tmp_path: Path, signing: Signing, result: Result) -> None:
    other = files_of(tmp_path / "other", ec.generate_private_key(ec.SECP256R1()))
    (tmp_path / "text.pem").write_text("no key")
    for cert, key in ((tmp_path / "none", signing[1]), (signing[0], tmp_path / "text.pem"), (signing[1], signing[0])):
        with pytest.raises(OptionError, match="sign: "):
            ResultSigner(cert, key)
    wrong = files_of(tmp_path / "wrong", ec.generate_private_key(ec.SECP256R1()), "key_encipherment")
    for files in ((signing[0], other[1]), wrong):
        with pytest.raises((OptionError, OutputError)) as caught:
            result.save(tmp_path / "a.png", signer=ResultSigner(*files))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "a.png").exists()
    with pytest.raises(OutputError, match="BMP holds no Content Credentials"):
        result.save(tmp_path / "a.bmp", signer=ResultSigner(*signing))
    with pytest.raises(OutputError, match="states nothing"):
        result.save(tmp_path / "a.png", provenance=False, signer=ResultSigner(*signing))


def test_the_command_signs_and_checks(
    here: Path, command: Command, small: Path, signing: Signing, result: Result
) -> None:
    frames = [Image.fromarray(np.full((8, 9, 3), level, np.uint8)) for level in (0, 90, 200)]
    frames[0].save("in.gif", save_all=True, append_images=frames[1:], duration=40)
    frames[1].save("in.png")
    common = ["--model", small, "--scale", "2"]
    sign = ["--sign", *signing]
    for source, name in (("in.png", "out.webp"), ("in.gif", "moving.png")):
        done = command("restore", source, "-o", name, *common, *sign)
        assert done.code == 0, done.err
        told = command("inspect", name)
        assert (told.code, "holds, by Anna (Tests)" in told.out) == (0, True), told
    assert command("restore", "in.png", "-o", "plain.webp", *common).code == 0
    again = command("restore", "in.png", "-o", "again.webp", "--model", small, "--from-result", "out.webp")
    assert (again.code, Path("again.webp").read_bytes()) == (0, Path("plain.webp").read_bytes())
    form = next(form for form in FORMATS if form.name == "WEBP")
    broken = command("inspect", with_changed_pixel(Path("out.webp"), form, Path("plain.webp").read_bytes()))
    assert (broken.code, "DOES NOT HOLD" in broken.out) == (1, True)
    for arguments, told in (
        (["out.bmp", *sign], "BMP holds no Content Credentials"),
        (["x.png", *sign, "--no-provenance"], "exclude each other"),
        (["x.tif", *sign, "--stream"], "cannot be signed"),
        (["x.png", *sign, "--server", "http://127.0.0.1:1"], "--server and --sign exclude each other"),
    ):
        refused = command("restore", "in.png", "-o", *arguments, *common)
        assert (refused.code in (1, 2), told in refused.err, Path(arguments[0]).exists()) == (True, True, False)


def test_the_service_signs_and_inspects(small: Path, signing: Signing) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (12, 9), (90, 120, 150)).save(picture, "PNG")
    sent = {"picture": ("photo.png", picture.getvalue())}
    service = RestorationService(ServiceSettings(models=[small], device="cpu", signing=signing))
    with service, TestClient(create_app(service)) as client:

        def restored(**fields: str) -> tuple[bytes, str]:
            answer = client.post("/api/v1/restore", files=sent, data={"scale": "2", **fields})
            assert answer.status_code == 200, answer.text
            return answer.content, answer.headers["S3Diff-Result"]

        def inspected(content: bytes) -> dict[str, Any]:
            told: dict[str, Any] = client.post("/api/v1/inspect", files={"picture": ("a", content)}).json()
            return told

        signed, _ = restored()
        told = inspected(signed)
        assert (told["credentials"]["holds"], told["is_intact"]) == (True, True)
        assert told["credentials"]["inputs"] == ["photo.png"]
        assert told["restorations"][0]["options"]["scale"] == 2
        plain, _ = restored(provenance="false")
        told = inspected(plain)
        assert (told["credentials"], told["restorations"], told["digital_source_type"]) == (None, [], None)
        _, notes = restored(format="bmp")
        assert "BMP holds no Content Credentials; the result is not signed" in notes
        place = signed.find(b"IDAT") + 20
        changed = signed[:place] + bytes([signed[place] ^ 1]) + signed[place + 1 :]
        assert inspected(changed)["is_intact"] is False
        assert client.post("/api/v1/inspect", files=sent, data={"scale": "2"}).status_code == 422
        assert client.post("/api/v1/inspect", files={"picture": ("a", b"x")}).json()["error"]["code"] == "picture"


def test_what_is_no_manifest_is_none(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "rb") as file:
        assert read_credentials(file, FORMATS[0]) is None
