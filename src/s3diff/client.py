"""Send pictures and videos to a service on another machine and get them back restored.

    from s3diff.client import Client

    with Client("http://127.0.0.1:8000") as client:
        client.restore("photo.jpg", scale=2).save("restored.jpg")

Needs the extra ``client`` (httpx); neither torch nor a model is needed here.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from s3diff.atomic_write import write_atomically
from s3diff.errors import (
    JobCancelledError,
    JobNotFoundError,
    OptionError,
    PictureError,
    QueueFullError,
    S3DiffError,
    ServiceError,
)
from s3diff.messages import needing, reason_of
from s3diff.option_texts import texts_of_options
from s3diff.options import OutputOptions, RestoreOptions
from s3diff.service_errors import SERVICE_ERRORS
from s3diff.video_options import VideoOptions

if TYPE_CHECKING:
    import httpx

#: Longest wait for a job's end in one request; shorter when progress is wanted.
_WAIT_SECONDS, _PROGRESS_SECONDS = 20.0, 0.5
#: Tries of a request when the connection breaks; uploads are not repeated.
_TRIES = 4
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Describe a picture's progress; see ``s3diff.serving.jobs.JobStatus``.

    Attributes:
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        stage: ``waiting``, ``reading``, ``estimating``, ``restoring``, ``writing`` or ``ended``.
        position: pictures before it in the queue; None when it is not in the queue.
        tile: finished parts; while a video is ``estimating``, frames that the first pass has looked at.
        num_tiles: parts in all, 0 while unknown.
        part: the unit of ``tile`` and ``num_tiles``: ``tile``, ``frame`` or ``page``.
        fraction: of the work, in [0, 1].
        seconds_left: None while unknown.
    """

    state: str
    stage: str
    position: int | None
    tile: int
    num_tiles: int
    part: str
    fraction: float
    seconds_left: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedResult:
    """Hold a restored picture as a file's content.

    Attributes:
        name: the service's name for it: the input's name in the result's format.
        media_type: such as ``image/jpeg``.
        facts: width, height, blur, noise, estimated_blur, estimated_noise and seconds.
        notes: everything lost, left out or unusual, one sentence each.
    """

    content: bytes
    name: str
    media_type: str
    facts: Mapping[str, Any]
    notes: tuple[str, ...]

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        """Write the file, whole or not at all. Its content does not depend on the path's extension.

        Raises:
            OutputError: it cannot be written there, or something is there that may not be replaced.
        """
        write_atomically(self.content, Path(path).resolve(), overwrite)


class Client:
    """Talk to a service at an address.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        token: where the service needs one.
        timeout_seconds: longest silence of the network.
        patience_seconds: how long to go on asking a service whose queue is full.

    Raises:
        MissingExtraError: httpx is not installed.
        OptionError: ``url`` is no address of HTTP, or the token holds characters that a header cannot.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout_seconds: float = 60.0, patience_seconds: float = 600.0
    ) -> None:
        with needing("client", "a client of the service needs the extra client"):
            import httpx
        try:
            parts = urlsplit(url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_address = False
        if not is_address or parts.query or parts.fragment:
            raise OptionError(f"server is {url!r}; give an address such as http://127.0.0.1:8000")
        if token is not None and not all("!" <= sign <= "~" for sign in token):
            raise OptionError("the token holds spaces or signs that no token has; give it as the service was given it")
        self.url = url.rstrip("/")
        self.patience_seconds = patience_seconds
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=self.url + "/",
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, read=timeout_seconds + _WAIT_SECONDS),
            trust_env=parts.hostname not in _LOOPBACK,  # no proxy stands before this machine
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def restore(
        self,
        source: str | os.PathLike[str] | bytes,
        options: RestoreOptions | None = None,
        *,
        name: str | None = None,
        model: str | None = None,
        writing: OutputOptions | None = None,
        video_options: VideoOptions | None = None,
        progress: Callable[[Progress], None] | None = None,
        **fields: Any,
    ) -> ServedResult:
        """Restore one picture, or one video, at the service. An exception or interruption also cancels the work there.

        Args:
            name: the picture's name; None for the file's.
            model: a name of :meth:`models`; None for the service's default.
            writing: format and quality of the result; a video keeps its container.
            video_options: codec, pixel format and ``steady`` of a video; its quality is that of ``writing``.
            progress: called about twice a second; its exception cancels the work.
            fields: of :class:`s3diff.RestoreOptions`, instead of ``options``.

        Raises:
            OptionError, PictureError, OutputError: the service reported the error that :meth:`s3diff.Restorer.restore`
                or ``restore_video`` would raise.
            QueueFullError: the service's queue stayed full, or (QuotaError) this client's part of it.
            JobTimeoutError, JobCancelledError: the job took longer than the service allows, or was cancelled.
            ServiceError: the service failed or cannot be reached.
        """
        job = self.submit(
            source, options, name=name, model=model, writing=writing, video_options=video_options, **fields
        )
        try:
            return job.result(progress)
        finally:
            with suppress(S3DiffError):
                job.end()

    def submit(
        self,
        source: str | os.PathLike[str] | bytes,
        options: RestoreOptions | None = None,
        *,
        name: str | None = None,
        model: str | None = None,
        writing: OutputOptions | None = None,
        video_options: VideoOptions | None = None,
        **fields: Any,
    ) -> RemoteJob:
        """Upload a picture or a video; see :meth:`restore`."""
        if options is not None and fields:
            raise OptionError(f"options and {', '.join(fields)} are given; give one of both")
        texts = texts_of_options(RestoreOptions(**fields) if options is None else options, writing, video_options)
        if model is not None:
            texts["model"] = model
        until, content = time.monotonic() + self.patience_seconds, _content(source)
        files = {"picture": (name or _name(source), content)}
        while True:
            answer = self._sent("POST", "api/v1/jobs", data=texts, files=files)
            seconds = _passing_seconds(answer)
            if seconds is None or time.monotonic() + seconds > until:
                return RemoteJob(self, self._checked(answer).json()["id"])
            time.sleep(seconds)

    def estimate(self, source: str | os.PathLike[str] | bytes, *, model: str | None = None) -> dict[str, Any]:
        """Estimate blur and noise of a picture, as restoring would; return its width and height, too.

        Raises:
            PictureError, ServiceError: see :meth:`restore`.
        """
        fields = {} if model is None else {"model": model}
        files = {"picture": (_name(source), _content(source))}
        found: dict[str, Any] = self._checked(self._sent("POST", "api/v1/estimate", data=fields, files=files)).json()
        return found

    def models(self) -> list[dict[str, Any]]:
        """List the models that the service offers, the default first: name, summary, is_default, is_loaded.

        Raises:
            ServiceError: see :meth:`restore`.
        """
        models: list[dict[str, Any]] = self._again("GET", "api/v1/models").json()["models"]
        return models

    def _again(self, method: str, path: str, **options: Any) -> httpx.Response:
        for attempt in range(_TRIES):
            is_last, seconds = attempt == _TRIES - 1, 0.25 * 2**attempt
            try:
                answer = self._sent(method, path, **options)
            except _UnreachableError:
                if is_last:
                    raise
            else:
                passing = _passing_seconds(answer)
                if is_last or passing is None:
                    return self._checked(answer)
                seconds = max(seconds, passing)
            time.sleep(seconds)
        raise AssertionError

    def _sent(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            reason = reason_of(error).lower()
            raise _UnreachableError(
                f"the service at {self.url} cannot be reached ({reason}); look whether it runs"
            ) from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.status_code < 300:
            return answer
        raise _error_of(answer, self.url)


class _UnreachableError(ServiceError):
    """Report that no answer came."""


class RemoteJob:
    """Follow a picture at a service; see :meth:`Client.submit`.

    Attributes:
        id: the service's name for it.
    """

    def __init__(self, client: Client, job_id: str) -> None:
        self.id, self._client = job_id, client
        self._path = f"api/v1/jobs/{job_id}"

    def look(self, wait_seconds: float = 0) -> Progress:
        """Return the progress, after waiting for the end at most this many seconds (30 at most).

        Raises:
            JobNotFoundError: the service has removed the job.
            ServiceError: see :meth:`Client.restore`.
        """
        return _progress(self._look(wait_seconds))

    def result(self, progress: Callable[[Progress], None] | None = None) -> ServedResult:
        """Wait for the end and fetch the result.

        Args:
            progress: called about twice a second.

        Raises:
            S3DiffError: see :meth:`Client.restore`.
        """
        step = _WAIT_SECONDS if progress is None else _PROGRESS_SECONDS
        while (told := self._look(step))["state"] in ("queued", "running"):
            if progress is not None:
                progress(_progress(told))
        if told["state"] == "cancelled":
            raise JobCancelledError("the job was cancelled")
        if told["state"] == "failed":
            raise _error_class(told["cause"])(told["error"])
        answer = self._client._again("GET", f"{self._path}/result")
        facts = json.loads(answer.headers.get("S3Diff-Result", "{}"))
        notes = tuple(facts.pop("notes", ()))
        named = re.search(r"filename\*=UTF-8''([^;]+)", answer.headers.get("Content-Disposition", ""))
        return ServedResult(
            content=answer.content,
            name=unquote(named[1]) if named else told["name"],
            media_type=answer.headers.get("Content-Type", "application/octet-stream"),
            facts=facts,
            notes=notes,
        )

    def end(self) -> None:
        """Cancel the work if it runs, and remove the picture and its result from the service.

        Raises:
            ServiceError: see :meth:`Client.restore`.
        """
        with suppress(JobNotFoundError):
            self._client._again("DELETE", self._path)

    def _look(self, wait_seconds: float) -> dict[str, Any]:
        told: dict[str, Any] = self._client._again("GET", self._path, params={"wait": wait_seconds}).json()
        return told


def _progress(told: Mapping[str, Any]) -> Progress:
    return Progress(**{name: told[name] for name in Progress.__dataclass_fields__})


def _error_class(code: str) -> type[S3DiffError]:
    return SERVICE_ERRORS[code].client_error if code in SERVICE_ERRORS else ServiceError


def _passing_seconds(answer: httpx.Response) -> float | None:
    """Return the seconds to wait after a refusal that is temporary; None for any other answer."""
    if answer.status_code not in (429, 503):
        return None
    with suppress(ValueError, KeyError, TypeError):
        kind = SERVICE_ERRORS[answer.json()["error"]["code"]]
        return _retry_after(answer) if kind.is_passing else None
    return None


def _retry_after(answer: httpx.Response) -> float:
    wait = answer.headers.get("Retry-After", "1")
    return float(wait) if wait.isdigit() else 1.0


def _error_of(answer: httpx.Response, url: str) -> S3DiffError:
    try:
        told = answer.json()["error"]
        code, message = str(told["code"]), " ".join(str(told["message"]).split())
    except (ValueError, KeyError, TypeError):
        return ServiceError(f"{url} answered with status {answer.status_code}; look whether it is an s3diff service")
    kind = _error_class(code)
    if issubclass(kind, QueueFullError):
        return kind(message, _retry_after(answer))
    return kind(message)


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return "picture" if isinstance(source, bytes) else Path(source).name


def _content(source: str | os.PathLike[str] | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise PictureError(f"{source} cannot be read ({reason_of(error)}); check the path") from None
