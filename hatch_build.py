"""The README as package indexes show it: its relative links and pictures lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
#: The README's commands are for a copy of the repository, which a reader of an index does not have.
_TRY = "## Try it\n"
_FROM_INDEX = (
    "\nFrom this index: `pip install s3diff`, then `s3diff photo.jpg`; with the page, `pip install 's3diff[web]'`, "
    "then `s3diff app`. What follows is for a copy of the repository.\n"
)
_NOT_SHOWN = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)


def readme_for_index(text: str, repository: str | None, version: str) -> str:
    """Make the README's relative addresses absolute, at the version's tag, and say how to install from the index.

    Args:
        text: the README.
        repository: address of the repository, as GitHub and Gitea lay it out; without one, links become their texts and
            pictures their descriptions, so that nothing leads nowhere.
        version: without the tag's ``v``.
    """
    text = _NOT_SHOWN.sub("", text).replace(_TRY, _TRY + _FROM_INDEX, 1)
    if repository is None:
        return _LINK.sub(r"\1", _PICTURE.sub(r"(Picture: \1.)", text))
    repository = repository.rstrip("/")
    text = _PICTURE.sub(rf"![\1]({repository}/raw/v{version}/\2)", text)
    return _LINK.sub(rf"[\1]({repository}/blob/v{version}/\2)", text)


class ReadmeHook(MetadataHookInterface):
    """Called by hatchling, which makes the package's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in ``readme``."""
        text = Path(self.root, "README.md").read_text("utf-8")
        shown = readme_for_index(text, metadata.get("urls", {}).get("Repository"), metadata["version"])
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
