"""Check tokens. With tokens every route except the health checks needs one; without tokens everybody is admitted."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path

from s3diff.errors import OptionError
from s3diff.serving.limits import Client, Quota

#: Name of the cookie that a signed-in browser sends instead of a token.
SESSION_COOKIE = "s3diff_session"
#: Paths answered without a token: liveness and readiness.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_SHORTEST_TOKEN = 16


class Auth:
    """Hold the tokens of a service.

    Args:
        tokens: each opens the service and owns its jobs, which the others cannot see.

    Attributes:
        open_paths: paths answered without a token; the page adds its sign-in form.
        sign_in_path: path for browsers without a session; None without a page.

    Raises:
        OptionError: a token is shorter than 16 characters or has other signs than visible ASCII, or two clients have
            the same.
    """

    def __init__(self, tokens: Iterable[str | Client] = ()) -> None:
        clients = [Client(each) if isinstance(each, str) else each for each in dict.fromkeys(tokens)]
        self._clients = {client.token: client for client in clients}
        if len(self._clients) < len(clients):
            raise OptionError("two clients have the same token; give each its own")
        for token in self._clients:
            if len(token) < _SHORTEST_TOKEN or not all("!" <= sign <= "~" for sign in token):
                raise OptionError(
                    f"a token has {len(token)} characters; give at least {_SHORTEST_TOKEN} visible ASCII characters, "
                    "such as those that `openssl rand -hex 24` prints"
                )
        self.open_paths = set(HEALTH_PATHS)
        self.sign_in_path: str | None = None

    @property
    def is_required(self) -> bool:
        """Whether a token is needed."""
        return bool(self._clients)

    def client_of_token(self, token: str) -> Client | None:
        """Return the holder of a token; None for an unknown one."""
        return self._client_by(lambda known: known, token)

    def session_of_token(self, token: str) -> str | None:
        """Make the value of :data:`SESSION_COOKIE` (HttpOnly, SameSite=Strict); None for a wrong token.

        The cookie depends only on the token, so every replica accepts it and a new token ends it.
        """
        return None if self.client_of_token(token) is None else _session(token)

    def client_of_request(self, authorization: str | None, session: str | None) -> Client | None:
        """Return who sends a request, by ``Authorization: Bearer`` or the session's cookie; None if unknown."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and (client := self.client_of_token(token.strip())) is not None:
            return client
        return None if session is None else self._client_by(_session, session)

    def _client_by(self, made_of: Callable[[str], str], given: str) -> Client | None:
        """Find the token of which the given text is made; an unknown text takes as long as a known one."""
        found = None
        for token, client in self._clients.items():
            if hmac.compare_digest(made_of(token).encode(), given.encode("utf-8", "surrogateescape")):
                found = client
        return found


def read_clients(path: Path) -> list[Client]:
    """Read the clients' names, tokens and quotas from a file.

    Args:
        path: one client per line, ``NAME TOKEN [waiting=N] [hourly=N]``; empty lines and lines beginning with ``#`` are
            ignored.

    Raises:
        OptionError: the file cannot be read, or a line has another form; the message names the line and no token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "no text in UTF-8").lower()
        raise OptionError(f"{path} cannot be read ({reason}); give a file with a NAME and a TOKEN a line") from None
    clients: list[Client] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        where = f"{path} line {number}"
        if len(words) < 2 or "=" in words[0]:
            raise OptionError(f"{where} has no name and token; write NAME TOKEN [waiting=N] [hourly=N]")
        if words[0] in {client.name for client in clients}:
            raise OptionError(f"{where}: the name {words[0]} is there already; give each client its own")
        limits: dict[str, int] = {}
        for name, _, value in (word.partition("=") for word in words[2:]):
            if name not in ("waiting", "hourly") or name in limits or not (value.isascii() and value.isdigit()):
                raise OptionError(f"{where}: after the token may stand waiting=N and hourly=N, whole numbers above 0")
            limits[name] = int(value)
        try:
            client = Client(words[1], words[0], Quota(**limits))
            Auth([*clients, client])
        except OptionError as error:
            raise OptionError(f"{where}: {error}") from None
        clients.append(client)
    if not clients:
        raise OptionError(f"{path} names no client; write NAME TOKEN a line")
    return clients


def _session(token: str) -> str:
    return hmac.new(token.encode(), b"s3diff session", hashlib.sha256).hexdigest()
