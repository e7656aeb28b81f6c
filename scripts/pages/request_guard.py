"""Who may come in: the door in front of a page's server.

A browser lets every web page open a WebSocket to every address. Without a door, any page open beside ours could watch,
drag and press (cross-site WebSocket hijacking), also under a name of its own that it points at this machine (DNS
rebinding). The browser, not the page, writes two headers that tell: `Host` is the name that was asked for, `Origin` the
page that asks. The door looks at both, and beyond this machine at a secret, before viser sees the request.

It does not tell apart the users of one machine: programs that run here can write any header.
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

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")  # in a Host; no resolver can point them elsewhere
EVERYWHERE = ("", "0.0.0.0", "::")  # addresses to listen on
AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?"
TOKEN = "token"  # in the address; the only thing that may stand behind its "?"

Answer = Callable[[ServerConnection, Request], Response | None]


class RequestGuard:
    """Decides which requests come in.

    On a loopback address Host has to be a loopback name, at any port, as `ssh -L` changes it. On any other address the
    machine goes by names that nobody listed, so Host may be any and a token is asked for: the page of another site has
    neither it nor, under whatever name it reaches us, the cookie. Everywhere a WebSocket needs an Origin, which has to
    be http:// and its Host, or one of `origins`: what came from another port of the same name is another page.

    Args:
        host: address that is listened on.
        port: that is listened on; it tells our cookie from other pages', because cookies do not heed ports.
        origins: under which the page is reached too, such as https://lab.example of a proxy.

    Raises:
        EnvError: one of `origins` is none.
    """

    def __init__(self, host: str, port: int, origins: Iterable[str] = ()):
        self.origins = frozenset(map(_origin, origins))
        self.token = "" if _is_loopback(host) else secrets.token_urlsafe()
        self._own_names = {*LOOPBACK_NAMES, host.lower()}
        self._proxies = {origin.partition("://")[2] for origin in self.origins}
        self._cookie = f"bimanual_{port}"

    def refusal(self, request: Request) -> str:
        """Why a request stays outside, one sentence; "" if it may come in."""
        # A header that stands twice could be read one way here and another way behind the door.
        hosts, origins = (request.headers.get_all(name) for name in ("Host", "Origin"))
        if len(hosts) != 1 or len(origins) > 1:
            return f"{len(hosts)} Host and {len(origins)} Origin headers; send one Host and at most one Origin."
        host = hosts[0].lower()
        ours = bool(self.token) or self._is_own(host)
        if not ours and host not in self._proxies:
            return (
                f"This page does not go by the name {host!a}; open it at {' or '.join(LOOPBACK_NAMES[:2])}, or if that "
                "is a name of yours for it, start it with --allow-origin and what the browser shows up to the name."
            )
        query = parse_qsl(request.path.partition("?")[2], keep_blank_values=True)
        if self.token and not self._knows_token(request, dict(query).get(TOKEN, "")):
            return f"The token is missing or wrong; open the address that was printed, with its ?{TOKEN}=..."
        if not origins and "Upgrade" in request.headers:
            return "A WebSocket without an Origin, which browsers send; another program may send http:// and Host."
        if origins and origins[0] not in self.origins and not (ours and origins[0] == f"http://{host}"):
            return (
                f"The page {origins[0]!a} may not use the one at {host!a}; if they are the same page behind a proxy of "
                "yours, start it with --allow-origin and the former."
            )
        # ?websocket= and ?playbackPath= would make viser's page, with our origin, take its messages from whatever
        # server a link names, and a message can carry JavaScript.
        if others := [name for name, _ in query if name != TOKEN]:
            return f"The address says {others[0]!a} behind its question mark; only {TOKEN} may stand there."
        return ""

    def before(self, answer: Answer | None) -> Answer:
        """A `process_request` for websockets: the door, and behind it `answer`."""

        def process_request(connection: ServerConnection, request: Request) -> Response | None:
            # Whatever is raised here, websockets answers with a 500 and closes the connection.
            if why := self.refusal(request):
                return connection.respond(HTTPStatus.FORBIDDEN, f"{why}\n")
            response = answer(connection, request) if answer is not None else None
            if response is not None:
                # In a frame, a foreign page could have its visitor click on ours unseen.
                response.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
                response.headers["Referrer-Policy"] = "no-referrer"  # it would name the token
                if self.token:  # the page's WebSocket leaves out what stands behind the "?"
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
    """A viser server behind a door.

    Raises:
        EnvError: viser or websockets is built so differently that the door stands open; the server is stopped.
    """
    with _guarded(guard), contextlib.redirect_stdout(io.StringIO()):  # viser's banner; ours says what to do
        server = _Server(host=host, port=port, label=label)
    try:
        # The proof, each time, that requests do pass by the door.
        _check_guarded(host, server.get_port())
    except BaseException:
        server.stop()
        raise
    return server


class _Server(viser.ViserServer):
    def request_share_url(self, verbose: bool = True) -> None:
        """No public tunnel to this page. Every client could ask for one, whether or not it has a button for it."""


@contextlib.contextmanager
def _guarded(guard: RequestGuard) -> Iterator[None]:
    """What serves WebSockets from here on asks the door first.

    viser 1.1 gives no access to the `process_request` of its server, so for as long as it starts the public `serve` of
    websockets, which it looks up then, is one that adds the door.
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
    """EnvError unless a stranger is refused, over HTTP and as a WebSocket."""
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    handshake |= {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    stranger = {"Host": "stranger.invalid", "Origin": "http://elsewhere.invalid"}
    for headers in (stranger, stranger | handshake):
        connection = http.client.HTTPConnection("127.0.0.1" if host in EVERYWHERE else host, port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers=headers)
            status = connection.getresponse().status
        if status != HTTPStatus.FORBIDDEN:
            raise EnvError(
                f"viser {version('viser')} with websockets {version('websockets')} answers a stranger's request with "
                f"{status}, not 403: the page would be open to every web page; install viser 1.1 with websockets 16"
            )


def _is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Other names than localhost may resolve to anything."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(text: str) -> str:
    """An origin as browsers write it: lower case, no default port."""
    origin = text.lower().removesuffix("/")
    if not re.fullmatch(f"https?://{AUTHORITY}", origin):
        raise EnvError(
            f"--allow-origin {text!r} is no origin; give scheme, host and, if the browser shows one, port, "
            "such as https://lab.example or http://lab.example:9000"
        )
    return origin.removesuffix(":443" if origin.startswith("https") else ":80")
