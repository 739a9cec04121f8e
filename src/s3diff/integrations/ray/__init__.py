"""Ray: the only folder that imports it. Restore pictures on a cluster, or in one's own Ray Data pipelines."""

from s3diff.integrations.ray.batches import Restore

__all__ = ["Restore"]
