"""Checks every request to a page's server before viser handles it.

Browsers let every web page open a WebSocket to every address. Without a check, any other open page could watch and
control this one (cross-site WebSocket hijacking), also under a name of its own that resolves to this machine (DNS
rebinding). The browser, not the page, writes two headers: `Host` is the requested name, `Origin` the requesting page.
The guard checks both and, beyond this machine, a secret token.

It does not distinguish the users of one machine: local programs can write any header.
"""

import contextlib
import hmac
import http.client
import io
import ipaddress
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from importlib.metadata import version
from urllib.parse import parse_qsl

import viser
from websockets.asyncio import server as websockets_server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from envs import EnvError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")  # in a Host; they cannot resolve to another machine
EVERYWHERE = ("", "0.0.0.0", "::")  # addresses to listen on
AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?"
TOKEN = "token"  # the only parameter that an address may have

Answer = Callable[[ServerConnection, Request], Response | None]


class RequestGuard:
    """Decides which requests are accepted.

    On a loopback address, Host must be a loopback name; the port may be any, because `ssh -L` changes it. On any other
    address the names of the machine are unknown, so Host may be any, and the request needs a token: the page of another
    site has neither the token nor the cookie. A WebSocket always needs an Origin, which must be http:// and its Host or
    one of `origins`. A page from another port of the same name is another page.

    Args:
        host: address to listen on.
        port: to listen on. It is part of the cookie's name, because browsers share cookies between ports.
        origins: more origins of the page, such as https://lab.example of a proxy.

    Raises:
        EnvError: one of `origins` is not an origin.
    """

    def __init__(self, host: str, port: int, origins: Iterable[str] = ()):
        self.origins = frozenset(map(_origin, origins))
        self.token = "" if _is_loopback(host) else secrets.token_urlsafe()
        self._own_names = {*LOOPBACK_NAMES, host.lower()}
        self._proxies = {origin.partition("://")[2] for origin in self.origins}
        self._cookie = f"bimanual_{port}"

    def refusal(self, request: Request) -> str:
        """Why a request is refused, one sentence; "" if it is accepted."""
        # A repeated header could be read differently here and by viser.
        hosts, origins = (request.headers.get_all(name) for name in ("Host", "Origin"))
        if len(hosts) != 1 or len(origins) > 1:
            return f"{len(hosts)} Host and {len(origins)} Origin headers; send one Host and at most one Origin."
        host = hosts[0].lower()
        ours = bool(self.token) or self._is_own(host)
        if not ours and host not in self._proxies:
            return (
                f"This page does not have the name {host!a}; open it at {' or '.join(LOOPBACK_NAMES[:2])}, or, if that "
                "name is yours, start it with --allow-origin and the address that the browser shows, up to the name."
            )
        query = parse_qsl(request.path.partition("?")[2], keep_blank_values=True)
        if self.token and not self._knows_token(request, dict(query).get(TOKEN, "")):
            return f"The token is missing or wrong; open the address that was printed, with its ?{TOKEN}=..."
        if not origins and "Upgrade" in request.headers:
            return "A WebSocket needs an Origin, which browsers send; other programs can send http:// and Host."
        if origins and origins[0] not in self.origins and not (ours and origins[0] == f"http://{host}"):
            return (
                f"The page {origins[0]!a} may not use the one at {host!a}; if both are the same page behind your "
                "proxy, start it with --allow-origin and the former."
            )
        # With ?websocket= and ?playbackPath=, viser's page takes messages, which may hold JavaScript, from the server
        # that a link names.
        if others := [name for name, _ in query if name != TOKEN]:
            return f"The address has the parameter {others[0]!a}; it may have {TOKEN} only."
        return ""

    def before(self, answer: Answer | None) -> Answer:
        """A `process_request` for websockets that checks the request and then calls `answer`."""

        def process_request(connection: ServerConnection, request: Request) -> Response | None:
            # If this raises, websockets answers with a 500 and closes the connection.
            if why := self.refusal(request):
                return connection.respond(HTTPStatus.FORBIDDEN, f"{why}\n")
            response = answer(connection, request) if answer is not None else None
            if response is not None:
                # In a frame, another page could make its visitor click on this one unseen.
                response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
                response.headers["Referrer-Policy"] = "no-referrer"  # it would contain the token
                if self.token:  # the page's WebSocket has no parameters
                    response.headers["Set-Cookie"] = f"{self._cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
            return response

        return process_request

    def _is_own(self, host: str) -> bool:
        found = re.fullmatch(AUTHORITY, host)
        return found is not None and found[1] in self._own_names

    def _knows_token(self, request: Request, given: str) -> bool:
        cookies = (part.partition("=") for line in request.headers.get_all("Cookie") for part in line.split(";"))
        tokens = [given, *(value.strip() for name, _, value in cookies if name.strip() == self._cookie)]
        wanted = self.token.encode()
        return any(hmac.compare_digest(token.encode(errors="backslashreplace"), wanted) for token in tokens)


def serve(guard: RequestGuard, host: str, port: int, label: str) -> viser.ViserServer:
    """A viser server whose requests a guard checks.

    Raises:
        EnvError: this version of viser or websockets does not call the guard; the server is stopped.
    """
    with _guarded(guard), contextlib.redirect_stdout(io.StringIO()):  # viser's banner
        server = _Server(host=host, port=port, label=label)
    try:
        # Test on every start that the guard is called.
        _check_guarded(host, server.get_port())
    except BaseException:
        server.stop()
        raise
    return server


class _Server(viser.ViserServer):
    def request_share_url(self, verbose: bool = True) -> None:
        """Makes no public tunnel to this page. Every client could request one, also without a button for it."""


@contextlib.contextmanager
def _guarded(guard: RequestGuard) -> Iterator[None]:
    """A context in which the WebSocket servers that start call the guard.

    viser 1.1 gives no access to the `process_request` of its server. It calls the public `serve` of websockets, so that
    function is replaced while viser starts.
    """
    original = websockets_server.serve

    def serve(*args, process_request: Answer | None = None, **settings) -> websockets_server.serve:
        return original(*args, process_request=guard.before(process_request), **settings)

    websockets_server.serve = serve  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        websockets_server.serve = original


def _check_guarded(host: str, port: int) -> None:
    """EnvError unless a foreign request is refused, over HTTP and as a WebSocket."""
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    foreign = {"Host": "foreign.invalid", "Origin": "http://elsewhere.invalid"}
    for headers in (foreign, foreign | handshake):
        connection = http.client.HTTPConnection("127.0.0.1" if host in EVERYWHERE else host, port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers=headers)
            status = connection.getresponse().status
        if status != HTTPStatus.FORBIDDEN:
            raise EnvError(
                f"viser {version('viser')} with websockets {version('websockets')} answers a foreign request with "
                f"{status}, not 403: every web page could use this one; install viser 1.1 with websockets 16"
            )


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address. Names other than localhost may resolve to anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(text: str) -> str:
    """An origin as browsers write it: in lower case, without the default port."""
    origin = text.lower().removesuffix("/")
    if not re.fullmatch(f"https?://{AUTHORITY}", origin):
        raise EnvError(
            f"--allow-origin {text!r} is not an origin; give scheme, host and, if the browser shows one, port, "
            "such as https://lab.example or http://lab.example:9000"
        )
    return origin.removesuffix(":443" if origin.startswith("https") else ":80")
