"""Which requests a page accepts, over HTTP and as a WebSocket, by their headers."""

import contextlib
import http.client
import http.server
import re
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import viser
from person import browser, needs_browser
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from envs import EnvError
from scripts.pages import request_guard
from scripts.pages.scene_page import ScenePage

PROXY = "https://lab.example"
HANDSHAKE = (
    *(("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
    ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
)


class Caller:
    """Sends requests with exactly the headers that it is given; `{port}` in one is the page's."""

    def __init__(self, stage: ScenePage):
        self.stage, self.port = stage, stage.server.get_port()
        self.token = stage.url.partition("=")[2]

    def get(self, *headers: tuple[str, str], path: str = "/") -> http.client.HTTPResponse:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value.format(port=self.port, token=self.token))
            connection.endheaders()
            response = connection.getresponse()
            self.body = b"" if response.status == 101 else response.read()
            return response

    def status(self, host: str, origin: str | None, *more: tuple[str, str], path: str = "/") -> tuple[int, int]:
        """What a request is answered with, over HTTP and as a WebSocket."""
        headers = (("Host", host), *(() if origin is None else (("Origin", origin),)), *more)
        path = path.format(token=self.token)
        return self.get(*headers, path=path).status, self.get(*headers, *HANDSHAKE, path=path).status


@contextlib.contextmanager
def calling(host: str, origins: tuple[str, ...] = ()) -> Iterator[Caller]:
    stage = ScenePage(None, host, 0, "A page", origins)
    stage.server.gui.add_markdown("Only friends read this")
    try:
        yield Caller(stage)
    finally:
        stage.close()


@pytest.fixture(scope="module")
def here():
    """A page for this machine."""
    with calling("127.0.0.1") as caller:
        yield caller


@pytest.fixture(scope="module")
def proxied():
    """A page for this machine and, through a proxy, for others."""
    with calling("127.0.0.1", (PROXY, "http://box:9000")) as caller:
        yield caller


@pytest.fixture(scope="module")
def everywhere():
    """A page for other machines."""
    with calling("0.0.0.0") as caller:
        yield caller


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}"),
        ("localhost:{port}", "http://localhost:{port}"),
        ("LocalHost:{port}", "http://localhost:{port}"),
        ("[::1]:{port}", "http://[::1]:{port}"),
        ("127.0.0.1:9", "http://127.0.0.1:9"),  # ssh -L 9:127.0.0.1:8080
        ("localhost", "http://localhost"),  # port 80
    ],
)
def test_the_own_page_comes_in_through_a_forwarded_port_too(here, host, origin):
    assert here.status(host, origin) == (200, 101)
    assert here.status(host, None) == (200, 403)  # the page is fetched without an Origin, no WebSocket is opened so


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:{port}",
        "http://127.0.0.1.evil.example:{port}",
        "http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1:{port}@evil.example",
        "http://localhost:{port}",  # the same machine under a name other than the one that was asked for
        "http://127.0.0.1:3000",  # another server of this machine
        "http://127.0.0.1",
        "https://127.0.0.1:{port}",
        "null",  # a file, a sandboxed frame
        "",
        PROXY,
    ],
)
def test_a_foreign_page_stays_outside(here, origin):
    assert here.status("127.0.0.1:{port}", origin) == (403, 403)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example",
        "evil@127.0.0.1:{port}",
        "127.0.0.1:{port}@evil.example",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "box:9000",
        "",
    ],
)
def test_no_name_but_the_own_ones_leads_in(here, host):
    """DNS rebinding: the page of evil.example, whose name now leads here, asks its own origin."""
    assert here.status(host, f"http://{host}") == (403, 403)
    assert here.status(host, None) == (403, 403)
    assert here.status(host, "http://127.0.0.1:{port}") == (403, 403)


def test_every_file_of_the_page_is_guarded(here):
    for path in ("/", "/index.html", "/missing.js", "//evil.example/x"):
        assert here.status("evil.example", None, path=path) == (403, 403)


def test_headers_that_stand_twice_or_not_at_all_are_refused(here):
    host, origin = ("Host", "127.0.0.1:{port}"), ("Origin", "http://127.0.0.1:{port}")
    for headers in [(), (origin,), (host, host, origin), (host, ("Host", "evil.example")), (host, origin, origin)]:
        assert here.get(*headers).status == 403
        assert here.get(*headers, *HANDSHAKE).status == 403


def test_however_it_is_spelt_a_websocket_needs_an_origin(here):
    for spelt in ("WebSocket", "h2c, websocket"):
        headers = [(name, spelt if name == "Upgrade" else value) for name, value in HANDSHAKE]
        assert here.get(("Host", "127.0.0.1:{port}"), *headers).status == 403


@pytest.mark.parametrize("query", ["websocket=ws://evil.example", "%77ebsocket=x", "playbackPath=x", "darkMode", "a&b"])
def test_no_link_makes_the_page_obey_another_server(here, query):
    assert here.status("127.0.0.1:{port}", "http://127.0.0.1:{port}", path=f"/?{query}") == (403, 403)


def test_what_comes_in_cannot_be_framed_and_no_cookie_is_needed(here):
    response = here.get(("Host", "127.0.0.1:{port}"))
    assert response.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
    assert "Set-Cookie" not in response.headers
    assert "=" not in here.stage.url
    assert b"Viser" in here.body


@pytest.mark.parametrize(
    ("host", "origin", "statuses"),
    [
        ("lab.example", PROXY, (200, 101)),  # the proxy passes Host on
        ("127.0.0.1:{port}", PROXY, (200, 101)),  # it does not
        ("box:9000", "http://box:9000", (200, 101)),
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", (200, 101)),
        ("lab.example", None, (200, 403)),
        ("lab.example", "http://lab.example", (403, 403)),
        ("lab.example:9000", PROXY, (403, 403)),
        ("box:9000", "http://127.0.0.1:{port}", (403, 403)),
        ("box", "http://box", (403, 403)),
        ("lab.example", "http://evil.example", (403, 403)),
        ("evil.example", PROXY, (403, 403)),
    ],
)
def test_an_origin_that_was_named_comes_in_and_no_other(proxied, host, origin, statuses):
    assert proxied.status(host, origin) == statuses


@pytest.mark.parametrize(
    ("path", "cookie", "lets_in"),
    [
        ("/?token={token}", None, True),
        ("/index.html?token={token}", None, True),
        ("/", "bimanual_{port}={token}", True),
        ("/", "a=b; bimanual_{port}={token}; bimanual_1=c", True),
        ("/", "bimanual_{port}=old; bimanual_{port}={token}", True),
        ("/?token=wrong", "bimanual_{port}={token}", True),  # the address of an earlier start
        ("/", None, False),
        ("/?token=", None, False),
        ("/?token={token}x", None, False),
        ("/?token=%C3%A9%FF", None, False),
        ("/?x={token}", None, False),
        ("/#token={token}", None, False),
        ("/", "bimanual_{port}=wrong", False),
        ("/", "bimanual_1={token}", False),
        ("/?token={token}&websocket=ws://evil.example", None, False),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "box.lab.example:9"])
def test_beyond_this_machine_a_token_leads_in_under_any_name(everywhere, host, path, cookie, lets_in):
    more = () if cookie is None else (("Cookie", cookie),)
    assert everywhere.status(host, f"http://{host}", *more, path=path) == ((200, 101) if lets_in else (403, 403))


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:3000"])
def test_the_token_is_no_leave_for_a_foreign_page(everywhere, origin):
    """The page of another port of the same machine: its browser sends the cookie along."""
    cookie = ("Cookie", "bimanual_{port}={token}")
    assert everywhere.status("127.0.0.1:{port}", origin, cookie)[1] == 403


def test_the_token_goes_into_a_cookie_that_stays_here(everywhere):
    response = everywhere.get(("Host", "box"), path=f"/?token={everywhere.token}")
    assert response.headers["Set-Cookie"] == (
        f"bimanual_{everywhere.port}={everywhere.token}; Path=/; HttpOnly; SameSite=Strict"
    )
    assert len(everywhere.token) >= 43  # 256 bits
    assert everywhere.token not in "".join(everywhere.get(("Host", "box")).headers.values())


def test_a_refusal_is_one_sentence_that_says_what_works(here, everywhere):
    told = {}
    told["host"] = here.get(("Host", "evil.example")), here.body
    told["origin"] = here.get(("Host", "localhost"), ("Origin", "http://evil.example")), here.body
    told["token"] = everywhere.get(("Host", "localhost")), everywhere.body
    for response, body in told.values():
        assert response.headers.get_content_type() == "text/plain"
        assert body.count(b"\n") == 1
    assert re.search(rb"'evil.example'; open it at localhost or 127.0.0.1.* --allow-origin", told["host"][1])
    assert re.search(rb"'http://evil.example' may not use the one at 'localhost'; .* --allow-origin", told["origin"][1])
    assert re.search(rb"open the address that was printed, with its \?token=", told["token"][1])


def test_a_client_that_comes_in_is_served_and_one_that_does_not_hears_nothing(here):
    settings = {"subprotocols": [f"viser-v{viser.__version__}"], "open_timeout": 10}
    address = f"ws://127.0.0.1:{here.port}"
    with connect(address, origin=Origin(f"http://127.0.0.1:{here.port}"), **settings) as client:
        assert len(client.recv(10)) > 100
    for origin in (Origin("http://evil.example"), Origin("null"), None):
        with pytest.raises(InvalidStatus, match="403"):
            connect(address, origin=origin, **settings)


def test_no_client_can_have_a_tunnel_made(here):
    assert here.stage.server.request_share_url() is None


@pytest.mark.parametrize(
    ("host", "needs"),
    [
        *[(host, False) for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1")],
        *[(host, True) for host in ("", "0.0.0.0", "::", "10.0.0.1", "box", "localhost.evil.example")],
    ],
)
def test_any_address_but_a_loopback_one_has_a_token(host, needs):
    first = request_guard.RequestGuard(host, 8080).token
    assert bool(first) == needs
    assert request_guard.RequestGuard(host, 8080).token != first or not needs


@pytest.mark.parametrize("text", ["*", "null", "lab.example", "https://lab.example/page", "ftp://lab.example", ""])
def test_what_is_no_origin_is_named(text):
    with pytest.raises(EnvError, match=rf"--allow-origin '{re.escape(text)}' is not an origin; .* https://lab.example"):
        ScenePage(None, "127.0.0.1", 0, "", (text,))


def test_origins_are_understood_as_browsers_write_them():
    given = ("https://Lab.example:443/", "http://lab.example:80", "https://lab.example:80", "http://[::1]:9")
    expected = {"https://lab.example", "http://lab.example", "https://lab.example:80", "http://[::1]:9"}
    assert request_guard.RequestGuard("127.0.0.1", 8080, given).origins == expected


def test_a_viser_that_does_not_use_the_guard_is_stopped(monkeypatch):
    ports = []
    monkeypatch.setattr(request_guard, "_guarded", lambda _: contextlib.nullcontext())
    check = request_guard._check_guarded
    monkeypatch.setattr(request_guard, "_check_guarded", lambda host, port: (ports.append(port), check(host, port)))
    with pytest.raises(EnvError, match=r"answers a foreign request with 200, not 403: .*; install viser 1.1"):
        ScenePage(None, "127.0.0.1", 0, "")
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10).connect()


@needs_browser
def test_the_printed_address_works_in_a_browser_and_another_page_is_refused(everywhere, here, tmp_path):
    site = _Site(("127.0.0.1", 0), partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path)))
    (tmp_path / "index.html").write_text("A foreign page")
    attack = "a => new Promise(f => { w = new WebSocket(a); w.onopen = () => f('in'); w.onerror = () => f('out') })"
    serving = threading.Thread(target=site.serve_forever)
    serving.start()
    try:
        with browser() as chromium:
            person = chromium.new_context()
            page = person.new_page()
            page.goto(everywhere.stage.url.replace(everywhere.stage.url.split("/")[2], f"127.0.0.1:{everywhere.port}"))
            page.get_by_text("Only friends read this").wait_for()
            page.goto(f"http://127.0.0.1:{everywhere.port}")  # from here on the cookie is enough
            page.get_by_text("Only friends read this").wait_for()
            page.goto(f"http://localhost:{here.port}")
            page.get_by_text("Only friends read this").wait_for()
            assert page.evaluate(attack, f"ws://localhost:{here.port}") == "in"
            for name in ("127.0.0.1", "localhost"):
                page.goto(f"http://{name}:{site.server_port}")
                page.get_by_text("A foreign page").wait_for()
                for target in (here, everywhere):
                    assert page.evaluate(attack, f"ws://127.0.0.1:{target.port}") == "out"
            stranger = chromium.new_context().new_page()
            answer = stranger.goto(f"http://127.0.0.1:{everywhere.port}")
            assert answer is not None
            assert answer.status == 403
            assert "open the address that was printed" in stranger.inner_text("body")
    finally:
        site.shutdown()
        serving.join()
        site.server_close()


class _Site(http.server.ThreadingHTTPServer):
    """Any other web page's server, silent."""

    def finish_request(self, request, client_address) -> None:
        self.RequestHandlerClass.log_message = lambda *_: None  # pyright: ignore
        super().finish_request(request, client_address)
