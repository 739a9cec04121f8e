"""Keep the unfinished work of a service's videos at the shared place, where another service finds it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from s3diff.folders.stores import stamp_of_file
from s3diff.serving.job_records import MOST_TRIES, JobRecords
from s3diff.serving.jobs import Job


class SharedWork:
    """Mirror the work folders of own videos.

    Args:
        records: of all jobs.
        service: this service's name in them.
    """

    def __init__(self, records: JobRecords, service: str) -> None:
        self._records, self._service = records, service
        self._lock = threading.Lock()
        #: Of each job: the name and the stamp of each file that is written down.
        self._there: dict[str, dict[str, str]] = {}

    def fetch(self, job: Job) -> None:
        """Put the work of another service into a job's folder, for :func:`restore_video`, which checks it."""
        from s3diff.restoration.video import kept_files

        self._records.fetch_work(job)
        found = {path.name: stamp_of_file(path) for path in kept_files(job.work)}
        with self._lock:
            self._there[job.id] = {name: stamp for name, stamp in found.items() if stamp is not None}

    def keep(self, jobs: Sequence[Job]) -> None:
        """Write what is new of these jobs, and remove what is of no use any more.

        Raises:
            StoreError, OutputError: the place cannot be reached, or is full; the next call goes on.
        """
        with self._lock:
            for job_id in set(self._there) - {job.id for job in jobs}:
                del self._there[job_id]
            for job in jobs:
                self._keep(job)

    def _keep(self, job: Job) -> None:
        from s3diff.restoration.video import kept_files

        there = self._there.setdefault(job.id, {})
        stamps = {path: stamp_of_file(path) for path in kept_files(job.work)}
        here = {path: stamp for path, stamp in stamps.items() if stamp is not None}
        if not here or {path.name: stamp for path, stamp in here.items()} == there:
            return
        # The folder of a job that has ended, or of a service that is ending, is being removed.
        if job.is_cancelled or job.status.is_final or not self._is_own(job.id):
            return
        if any(there.get(path.name, stamp) != stamp for path, stamp in here.items() if path.suffix == ".json"):
            self._forget(job.id, [name for name in there if not name.endswith(".json")])  # of other work
        for path, stamp in here.items():
            if there.get(path.name) != stamp:
                self._records.write_work(job.id, path)
                there[path.name] = stamp
        self._forget(job.id, set(there) - {path.name for path in here})

    def _forget(self, job_id: str, names: Sequence[str] | set[str]) -> None:
        self._records.remove_work(job_id, names)
        for name in names:
            del self._there[job_id][name]

    def _is_own(self, job_id: str) -> bool:
        """Check whether no other service has taken the job over, or ended it."""
        claimants = (self._records.claimant(job_id, number) for number in reversed(range(MOST_TRIES)))
        return next((each for each in claimants if each is not None), None) == self._service
