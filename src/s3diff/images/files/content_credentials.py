"""Sign finished files with Content Credentials (C2PA), and read them. Only this module knows c2pa-python (the extra
``provenance``). Nothing is fetched over a network: no time stamps, no manifests that lie elsewhere.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from s3diff.errors import OptionError, OutputError
from s3diff.formats import Format, PicturePath
from s3diff.images.files.codec import HEAD_BYTES, recognised_codec
from s3diff.images.files.provenance_xmp import statement_fields
from s3diff.images.provenance import Provenance
from s3diff.messages import needing, reason_of, shown_path

_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # a reduced copy of every input would lie in its result
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
#: By what keys are made for, the usual ones first; a key of another kind is refused by the library.
_ALGORITHMS = ("es256", "es384", "es512", "ps256", "ed25519")
_UNTRUSTED = "signingCredential.untrusted"
_INPUT = "input"
#: Names the structure in the parameters of the action.
_PARAMETER = "s3diff.restoration"


class Credentials(NamedTuple):
    """Hold a file's newest Content Credentials, and whether they hold.

    Attributes:
        holds: whether signature and file are as they were when they were signed.
        is_trusted: whether the certificate is on the list of trusted ones.
        signer: name in the certificate.
        organisation: the same.
        failures: codes of the specification for what does not hold.
        actions: the stated actions, such as ``c2pa.enhanced``.
        source_type: of IPTC's vocabulary, as the actions state it; empty where they do not.
        restoration: our statement in the actions, its fields as texts.
        inputs: titles of the file's sources.
    """

    holds: bool
    is_trusted: bool
    signer: str
    organisation: str
    failures: tuple[str, ...]
    actions: tuple[str, ...]
    source_type: str
    restoration: Mapping[str, str]
    inputs: tuple[str, ...]


class ResultSigner:
    """Sign files of results.

    Args:
        certificate: a file of PEM certificates, the signer's first, then those that vouch for it. Its key usage must be
            ``digitalSignature``, its extended key usage one that C2PA knows, such as ``emailProtection``.
        key: a file with its private key, PEM (PKCS 8), not encrypted.

    Raises:
        MissingExtraError: c2pa-python is not installed.
        OptionError: the files cannot be read, or do not fit together.
    """

    def __init__(self, certificate: PicturePath, key: PicturePath) -> None:
        self._certificate, self._key = _content(certificate), _content(key)
        library, reasons = _library(), []
        for algorithm in _ALGORITHMS:
            self._algorithm = algorithm
            try:
                self._signer(library).close()
                break
            except library.C2paError as error:
                reasons.append(reason_of(error))
        else:
            raise OptionError(
                f"sign: {shown_path(certificate)} and {shown_path(key)} cannot sign ({reasons[0]}); give a certificate "
                "and its private key as PEM files, the key not encrypted"
            )

    def fits(self, form: Format) -> bool:
        """Check whether a format holds Content Credentials."""
        return form.media_type in _library().Builder.get_supported_mime_types()

    def require_fitting(self, form: Format) -> None:
        """Refuse a format that holds no Content Credentials.

        Raises:
            OutputError: it holds none.
        """
        if not self.fits(form):
            raise OutputError(f"{form.title} holds no Content Credentials, so it cannot be signed; write .png or .jpg")

    def sign(
        self, file: BinaryIO, target: BinaryIO, form: Format, made: Provenance, title: str, source: Path | None
    ) -> None:
        """Write a signed copy of a file.

        Args:
            file: a result's, opened for reading.
            target: opened for reading and writing.
            source: the input's file; None where there is none.

        Raises:
            OutputError: it cannot be signed.
        """
        self.require_fitting(form)
        library = _library()
        try:
            manifest = json.dumps(_manifest(made, form, title, has_input=source is not None))
            with library.Context.from_dict(_SETTINGS) as context, library.Builder(manifest, context=context) as builder:
                if source is not None:
                    _add_input(builder, source)
                file.seek(0)
                with self._signer(library) as signer:
                    builder.sign(signer, form.media_type, file, target)
        except library.C2paError as error:
            raise OutputError(
                f"{title} cannot be signed ({reason_of(error)}); the certificate needs the key usage digitalSignature "
                "and an extended one that C2PA knows, such as emailProtection"
            ) from error

    def signed(self, data: bytes, form: Format, made: Provenance, title: str, source: Path | None) -> bytes:
        """Return a file's signed content; see :meth:`sign`."""
        target = io.BytesIO()
        self.sign(io.BytesIO(data), target, form, made, title, source)
        return target.getvalue()

    def _signer(self, library: Any) -> Any:
        # An empty address would be asked for a time stamp; None asks nobody.
        info = library.C2paSignerInfo(self._algorithm.encode(), self._certificate, self._key, None)
        return library.Signer.from_info(info)


def read_credentials(file: BinaryIO, form: Format) -> Credentials | None:
    """Read the Content Credentials of an opened file, and check them against its bytes; None where it has none.

    The file's position is not restored.

    Raises:
        MissingExtraError: c2pa-python is not installed.
    """
    library = _library()
    if form.media_type not in library.Reader.get_supported_mime_types():
        return None
    file.seek(0)
    try:
        with library.Context.from_dict(_SETTINGS) as context:
            reader = library.Reader.try_create(form.media_type, file, context=context)
            if reader is None:
                return None
            with reader:
                told, state = json.loads(reader.json()), reader.get_validation_state()
    except library.C2paError as error:  # too damaged to be read at all
        return Credentials(False, False, "", "", (reason_of(error),), (), "", {}, ())
    return _credentials(told, state)


def _credentials(told: dict[str, Any], state: str | None) -> Credentials:
    manifest = told.get("manifests", {}).get(told.get("active_manifest"), {})
    found = told.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    codes = [str(each.get("code")) for each in found]
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if str(assertion.get("label")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
    ]
    stated = [each["parameters"][_PARAMETER] for each in actions if _PARAMETER in each.get("parameters", {})]
    signature = manifest.get("signature_info", {})
    return Credentials(
        holds=state in ("Valid", "Trusted"),
        is_trusted=state == "Trusted",
        signer=str(signature.get("common_name") or ""),
        organisation=str(signature.get("issuer") or ""),
        failures=tuple(dict.fromkeys(code for code in codes if code != _UNTRUSTED)),
        actions=tuple(str(each.get("action")) for each in actions),
        source_type=next((str(each["digitalSourceType"]) for each in actions if "digitalSourceType" in each), ""),
        restoration={str(name): str(value) for name, value in (stated[-1] if stated else {}).items()},
        inputs=tuple(str(each.get("title")) for each in manifest.get("ingredients", [])),
    )


def _manifest(made: Provenance, form: Format, title: str, *, has_input: bool) -> dict[str, Any]:
    """Return the claim: opened the input, then restored it (C2PA 2.1, section 18.15)."""
    agent = {"name": "s3diff", "version": made.version}
    begun: dict[str, Any] = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_INPUT]}}
    if not has_input:
        begun = {"action": "c2pa.created", "digitalSourceType": made.source_type}
    restored = {
        "action": "c2pa.edited" if made.is_generative else "c2pa.enhanced",
        "softwareAgent": agent,
        "digitalSourceType": made.source_type,
        "parameters": {_PARAMETER: statement_fields(made)},
    }
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [begun, restored]}}
    return {"claim_generator_info": [agent], "title": title, "format": form.media_type, "assertions": [actions]}


def _add_input(builder: Any, source: Path) -> None:
    try:
        with open(source, "rb") as file:
            codec = recognised_codec(file.read(HEAD_BYTES))
            file.seek(0)
            told = {"title": source.name, "relationship": "parentOf", "label": _INPUT}
            builder.add_ingredient(told, codec.form.media_type if codec else "application/octet-stream", file)
    except OSError as error:
        raise OutputError(
            f"{shown_path(source)} cannot be read again to be named as the input ({reason_of(error)})"
        ) from error


def _content(path: PicturePath) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"sign: {shown_path(path)} cannot be read ({reason_of(error)}); give a PEM file") from error


def _library() -> Any:
    with needing("provenance", "Content Credentials need the extra provenance"):
        import c2pa
    return c2pa
