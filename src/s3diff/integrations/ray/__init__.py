"""Restore pictures with Ray: on a cluster, or in a Ray Data pipeline. Only this folder imports Ray."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3diff.integrations.ray.batches import Restore

__all__ = ["Restore"]


def __getattr__(name: str) -> Any:
    """Import torch when :class:`Restore` is asked for: Ray Serve's proxies, which import this package, need none."""
    if name != "Restore":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from s3diff.integrations.ray.batches import Restore

    return Restore
