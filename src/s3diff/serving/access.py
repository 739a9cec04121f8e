"""Decide who may reach a service: its tokens, and the host names that requests may carry."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from s3diff.errors import OptionError
from s3diff.serving.assembly import LOOPBACK_NAMES
from s3diff.serving.http.auth import Auth, Client, read_clients


def clients_of(
    host: str, tokens: Sequence[str] | None, file: Path | None, *, is_open: bool = False
) -> tuple[str | Client, ...]:
    """List who may ask a service at an address; nobody for everybody.

    Args:
        host: the address that it listens on.
        tokens: None for those of the environment variable ``S3DIFF_TOKEN``.
        file: a file of further tokens; see :func:`read_clients`.
        is_open: whether everybody is let in.

    Raises:
        OptionError: others reach the address and there is no token, or there are tokens and everybody is let in.
    """
    given = os.environ.get("S3DIFF_TOKEN", "").split() if tokens is None else tokens
    clients: tuple[str | Client, ...] = (*given, *(read_clients(file) if file is not None else ()))
    has_tokens = Auth(clients).is_required
    if has_tokens and is_open:
        raise OptionError("--no-auth and a token exclude each other; give one of them (S3DIFF_TOKEN counts as one)")
    if not has_tokens and not is_open and not _is_loopback(host):
        raise OptionError(
            f"host {host} can be reached by others; give --token (or S3DIFF_TOKEN, or --tokens FILE), or --no-auth to "
            "let everybody in"
        )
    return clients


def allowed_hosts(host: str, allowed: Sequence[str]) -> frozenset[str] | None:
    """List the host names that requests may carry; None for any: on a public address, unless some are given."""
    return None if not allowed and not _is_loopback(host) else frozenset({*LOOPBACK_NAMES, host, *allowed})


def _is_loopback(host: str) -> bool:
    try:
        return host.lower() in LOOPBACK_NAMES or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_network(text: str) -> str:
    """Parse the address of a trusted proxy, its network, or * for all.

    Raises:
        OptionError: it is none of these.
    """
    try:
        return (
            text if text == "*" else str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
        )
    except ValueError:
        raise OptionError(
            f"trust-proxy is {text!r}; give an address such as 10.0.0.2 or a network such as 172.16.0.0/12"
        ) from None
