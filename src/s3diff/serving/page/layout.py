"""Fill the page's HTML with the service's models, options and limits, and define its headers."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from s3diff.formats import FORMATS, PICTURE_EXTENSIONS, VIDEO
from s3diff.images.codecs import can_be_written
from s3diff.images.files.video import reads_videos
from s3diff.option_texts import option_text
from s3diff.presets import RestorePreset, all_presets
from s3diff.serving.page.controls import SIZE_FIELDS, page_controls, told_values
from s3diff.serving.service import RestorationService

#: Nothing is loaded from or sent to other hosts, no script or style is inline, no string becomes code, no other page
#: frames this one.
CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ]
)
PAGE_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With "no-referrer" a browser names no origin for the forms of signing in and out, which are then refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
NOT_KEPT = {"Cache-Control": "no-store"}


STATIC = Path(__file__).with_name("static")
#: Files that the browser may request, and their media types.
STATIC_TYPES = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}


def page_document(service: RestorationService, examples: Sequence[str], *, has_login: bool) -> str:
    """Write the page.

    Args:
        examples: file names of the pictures that come with the page.
        has_login: whether to show the button for signing out.
    """
    told, videos = json.dumps(_told(service, examples, has_login=has_login)), _video_endings()
    parts = {
        "VERSION": static_version(),
        "ENDINGS": html.escape(",".join(["image/*", *(["video/*"] if videos else []), *PICTURE_EXTENSIONS, *videos])),
        # A "<" would end the element that holds it.
        "TOLD": told.replace("<", "\\u003c"),
    }
    text = (STATIC / "page.html").read_text(encoding="utf-8")
    for name, value in parts.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _told(service: RestorationService, examples: Sequence[str], *, has_login: bool) -> dict[str, Any]:
    """Collect the facts that the scripts need."""
    models = service.models
    default = next(each.name for each in models if each.is_default)
    return {
        "controls": [
            {**asdict(each), "allowed": each.allowed} for each in page_controls([each.name for each in models], default)
        ],
        "values": told_values(),
        "sizeFields": list(SIZE_FIELDS),
        "presets": [_preset(each) for each in all_presets().values()],
        "examples": list(examples),
        "hasLogin": has_login,
        "formats": [form.title for form in FORMATS if can_be_written(form.extensions[0])],
        "endings": [*PICTURE_EXTENSIONS, *_video_endings()],
        "videoEndings": _video_endings(),
        "shownTypes": [form.media_type for form in FORMATS if form.is_shown_by_browsers],
        "lossyFormats": [form.extensions[0][1:] for form in FORMATS if form.has_quality],
        "withoutPrompts": [each.name for each in models if each.takes_prompts is False],
        "withoutTinyDecoder": [each.name for each in models if each.takes_tiny_decoder is False],
        "uploadBytes": service.limits.upload_bytes,
        "videoFrames": service.limits.video_frames,
        "outputPixels": service.limits.output_pixels,
        "keepSeconds": service.limits.result_seconds,
    }


def _video_endings() -> list[str]:
    """List the endings of videos' names, where this service reads videos."""
    return list(VIDEO.extensions) if reads_videos() else []


def _preset(preset: RestorePreset) -> dict[str, Any]:
    options = {
        name: value if isinstance(value, str | bool | int | float) else option_text(name, value)
        for name, value in preset.values.items()
        if name != "name"  # results of the page have a name of their own
    }
    return {"name": preset.name, "title": preset.title, "summary": preset.summary, "options": options}


@cache
def static_version() -> str:
    """Name the scripts' version, so that a browser never uses old ones."""
    digest = hashlib.sha256()
    for path in sorted(STATIC.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
