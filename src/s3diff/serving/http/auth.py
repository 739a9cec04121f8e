"""Who may ask. With tokens every route but the health checks needs one; without them everybody may."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie

from s3diff.errors import OptionError

#: Name of the cookie that a signed-in browser sends instead of a token.
SESSION_COOKIE = "s3diff_session"
#: Answered without a token: whether the process lives, and whether it takes pictures.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_SHORTEST_TOKEN = 16


class Auth:
    """The tokens of a service.

    Args:
        tokens: any of them opens the service; each is an owner of its own, whose jobs the others cannot see.

    Attributes:
        open_paths: answered without a token. The page adds where one signs in.
        sign_in_path: where a browser without a session is sent; None where there is no page.

    Raises:
        OptionError: a token is shorter than 16 characters or has other signs than visible ASCII.
    """

    def __init__(self, tokens: Iterable[str] = ()) -> None:
        self._tokens = tuple(dict.fromkeys(tokens))
        for token in self._tokens:
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
        return bool(self._tokens)

    def owner_of_token(self, token: str) -> str | None:
        """Who has this token; None when nobody has. Takes as long for a wrong token as for a right one."""
        found = None
        for known in self._tokens:
            if hmac.compare_digest(known.encode(), token.encode("utf-8", "surrogateescape")):
                found = _owner(known)
        return found

    def session_of_token(self, token: str) -> str | None:
        """What a browser keeps as :data:`SESSION_COOKIE` (HttpOnly, SameSite=Strict); None for a wrong token.

        It is made of the token alone, so every replica knows it and a new token ends it.
        """
        return None if self.owner_of_token(token) is None else _session(token)

    def owner_of_request(self, authorization: str | None, cookies: str | None) -> str | None:
        """Who asks, by an ``Authorization: Bearer`` header or the session's cookie; None for nobody known."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and (owner := self.owner_of_token(token.strip())) is not None:
            return owner
        session = _cookie(cookies)
        found = None
        for known in self._tokens:
            if session is not None and hmac.compare_digest(_session(known), session):
                found = _owner(known)
        return found


def _owner(token: str) -> str:
    return hashlib.sha256(b"s3diff owner " + token.encode()).hexdigest()[:32]


def _session(token: str) -> str:
    return hmac.new(token.encode(), b"s3diff session", hashlib.sha256).hexdigest()


def _cookie(cookies: str | None) -> str | None:
    try:
        found = SimpleCookie(cookies or "").get(SESSION_COOKIE)
    except CookieError:
        return None
    return found.value if found is not None and found.value.isascii() else None
