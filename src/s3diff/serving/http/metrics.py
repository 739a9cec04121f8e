"""Collect Prometheus metrics: requests, jobs, queue, room. Every application has its own registry."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from s3diff.serving.service import RestorationService
from s3diff.version import __version__

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
#: Methods with a label of their own; all others, which a client may invent, share one.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Collect the metrics of one service."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, service: RestorationService) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_ServiceCollector(service))
        self._requests = Counter(
            "s3diff_http_requests", "Answered requests.", ("method", "route", "status"), registry=self.registry
        )
        self._request_seconds = Histogram(
            "s3diff_http_request_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self._job_seconds = Histogram(
            "s3diff_job_seconds",
            "Time from taking a picture on to its end.",
            ("state",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        service.listeners.append(lambda job: self._job_seconds.labels(job.status.state).observe(job.seconds))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Write all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _ServiceCollector(Collector):
    def __init__(self, service: RestorationService) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service
        version = GaugeMetricFamily("s3diff_info", "The version that runs.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        jobs = CounterMetricFamily("s3diff_jobs", "Pictures by how they ended.", labels=["state"])
        for state, count in service.counts.items():
            jobs.add_metric([state], count)
        yield jobs
        for name, text, value in (
            ("ready", "1 while pictures are taken and worked on.", float(service.is_ready)),
            ("queue_length", "Pictures that wait.", service.num_waiting),
            ("queue_limit", "Pictures that may wait.", service.limits.queue_length),
            ("running", "Pictures that are being read, restored or written.", service.num_running),
            ("result_bytes", "Bytes of results that are kept.", service.store.result_bytes),
            ("jobs_kept", "Jobs that are remembered.", service.store.num_jobs),
        ):
            yield GaugeMetricFamily(f"s3diff_{name}", text, value=value)
