"""The web page: plain HTML, CSS and modules in front, the service's own HTTP interface behind. Its door is
``mount_page``.
"""

from __future__ import annotations

from s3diff.serving.page.mounting import mount_page

__all__ = ["mount_page"]
