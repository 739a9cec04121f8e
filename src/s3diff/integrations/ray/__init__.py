"""Ray: the only folder that imports it. Restore and serve on a cluster, or restore in one's own Ray Data pipelines."""

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
