"""Serve the web page: plain HTML, CSS and modules over the service's HTTP interface. Entry: ``mount_page``."""

from __future__ import annotations

from s3diff.serving.page.mounting import mount_page

__all__ = ["mount_page"]
