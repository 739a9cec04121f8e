"""End a service that a signal stops as Ctrl-C does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, end the command as Ctrl-C does, with everything tidied up.

    The running server handles SIGTERM itself. A signal that the parent process has set to be ignored, as nohup does,
    stays ignored.
    """

    received: list[int] = []

    def stop(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # one is enough
        received.append(number)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    except Exception:
        # A library that is interrupted by the signal may raise its own error instead.
        if received:
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None is a handler that was set from outside Python
                signal.signal(number, handler)
