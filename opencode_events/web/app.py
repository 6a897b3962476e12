"""Which handler answers which path, and the aiohttp runner that serves them."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus

import aiohttp
import structlog
from aiohttp import web

from opencode_events.access_settings import AccessSettings, listed
from opencode_events.broker.broker import Broker
from opencode_events.credentials import Credentials
from opencode_events.events import Stream
from opencode_events.settings import ServerSettings
from opencode_events.tokens import Tokens
from opencode_events.web.access import Access, Need, expect_later, parse_hosts
from opencode_events.web.bodies import Bodies
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors
from opencode_events.web.dashboard import Dashboard
from opencode_events.web.handles import Look
from opencode_events.web.heads import BoundedHead, can_bound
from opencode_events.web.history import History, unbounded
from opencode_events.web.memory import Memory, allowed_bytes
from opencode_events.web.metrics import Metrics
from opencode_events.web.openapi import OpenApi, describe
from opencode_events.web.operate import Operate, Statistics, nothing_seen
from opencode_events.web.problems import Guard, Handler, forbidding, refusal
from opencode_events.web.publish import Publish
from opencode_events.web.rates import Rates
from opencode_events.web.shield import Shield, spelled_out
from opencode_events.web.subscribe import Subscribe
from opencode_events.web.turnstile import Turnstile

log = structlog.get_logger()

# Seconds that an idle connection is kept; longer than the 60 s after which proxies give theirs up.
KEEPALIVE_S = 75.0
READ_BYTES = 64 * 1024
# What a request's head may have, and who is told of connections: where the application says it to its runner.
HEAD_BYTES = web.AppKey("head_bytes", int)
CONNECTIONS = web.AppKey("connections", Connections)
STREAMS: Mapping[str, Stream] = {"/event": "instance", "/global/event": "global"}
HISTORY = "/sync/history"
# The rest of a path, whatever it has: a dot alone would leave out line feeds.
REST = "{path:(?s:.*)}"
# Subscriptions that are begun in one turn of the loop: some 2 ms.
HANDSHAKES_A_TURN = 3


def build_app(
    settings: ServerSettings,
    broker: Broker,
    version: str,
    parts: Mapping[str, Statistics],
    *,
    connections: Connections | None = None,
    look: Look = nothing_seen,
    access: AccessSettings | None = None,
    credentials: Credentials | None = None,
    tokens: Tokens | None = None,
    shield: Shield | None = None,
) -> web.Application:
    """Return the application. Unknown paths and methods get problem documents too, or are passed through a shield.

    `connections` is told of every request; `look` returns what the watchdog sees of a subscriber's connection.
    `credentials` are what everybody has to show, or one of `tokens`.
    """
    access = AccessSettings() if access is None else access
    watched = Connections() if connections is None else connections  # one without connections is false
    cors = Cors(frozenset(listed(access.cors_origins)))
    memory = Memory(access.max_rss_bytes or allowed_bytes())
    may = Access(credentials, parse_hosts(access.allowed_hosts), cors, tokens)
    guard = Guard(may, cors, watched, memory, max_head_bytes=access.max_head_bytes)

    routes = _streams(settings, broker, access, cors, shield)
    contract = describe(
        version,
        is_shield=shield is not None,
        may_publish=shield is None or shield.allow_publish,
        shown=(*(() if credentials is None else ("basic", "auth_token")), *(() if tokens is None else ("bearer",))),
    )
    parts = {**parts, "http": watched.statistics, "memory": memory.statistics}
    operate = Operate(version, broker, parts, look, shield, memory)
    routes |= {
        "/-/": {"GET": Dashboard()},
        "/-/healthy": {"GET": operate.healthy},
        "/-/ready": {"GET": operate.ready},
        "/-/status": {"GET": operate.status},
        "/-/metrics": {"GET": Metrics(version, broker, parts, lambda: not operate.reasons())},
        "/-/subscribers": {"GET": operate.subscribers},
        "/-/subscribers/{id}": {"DELETE": operate.evict},
        "/-/openapi.json": {"GET": OpenApi(contract)},
    }
    if shield is None:
        routes["/global/health"] = {"GET": operate.health}

    app = web.Application()
    app[HEAD_BYTES], app[CONNECTIONS] = access.max_head_bytes, watched
    for path, methods in routes.items():
        if path not in STREAMS and "GET" in methods:
            methods["HEAD"] = methods["GET"]  # aiohttp leaves the body out; of a stream there would be nothing to say
        for method, handler in methods.items():
            app.router.add_route(method, path, guard(handler, need_of(method, path)))
        app.router.add_route("OPTIONS", path, guard(cors.preflight))
        if shield is None or path not in STREAMS:
            allow = ", ".join([*methods, "OPTIONS"])
            app.router.add_route("*", path, guard(refusal(HTTPStatus.METHOD_NOT_ALLOWED, allow=allow)))
    if shield is None:
        app.router.add_route("*", f"/{REST}", guard(refusal(HTTPStatus.NOT_FOUND)))
    else:
        _pass_rest_through(app, shield, guard, {path: routes[path]["GET"] for path in STREAMS})
    return app


def _streams(
    settings: ServerSettings, broker: Broker, access: AccessSettings, cors: Cors, shield: Shield | None
) -> dict[str, dict[str, Handler]]:
    """Return the handlers of the two streams, and of history where it is our own."""
    bodies = Bodies(settings.max_unfinished_bytes)
    rates = Rates(access.token_publish_events_per_s, access.peer_publish_events_per_s)
    turnstile = Turnstile(HANDSHAKES_A_TURN)
    routes: dict[str, dict[str, Handler]] = {}
    for path, stream in STREAMS.items():
        if shield is None or shield.allow_publish:
            publish: Handler = Publish(stream, broker, settings, bodies, rates)
        else:
            publish = forbidding("this is the stream of upstream's events; the setting is allow_publish")
        routes[path] = {"GET": Subscribe(stream, broker, settings, cors, turnstile, shield), "POST": publish}
    if shield is None:
        routes[HISTORY] = {"POST": History(broker, settings, bodies, cors)}
    return routes


def _pass_rest_through(app: web.Application, shield: Shield, guard: Guard, streams: Mapping[str, Handler]) -> None:
    """Add what upstream answers: all that is not ours, unless it is one of our `streams` in another spelling."""
    app.router.add_route("*", f"/-/{REST}", guard(refusal(HTTPStatus.NOT_FOUND)))
    history = guard(unbounded(shield.pass_through), "subscribe")
    app.router.add_route("POST", HISTORY, history, expect_handler=expect_later)
    guarded = {path: guard(handler, need_of("GET", path)) for path, handler in streams.items()}
    pass_through = guard(shield.pass_through, "upstream")

    async def answer(request: web.Request) -> web.StreamResponse:
        path = spelled_out(request.path) if request.method == "GET" else ""
        return await guarded.get(path, pass_through)(request)

    app.router.add_route("*", f"/{REST}", answer, expect_handler=expect_later)


def need_of(method: str, path: str) -> Need:
    """Return what a token must be for to ask for one of our paths."""
    if path.startswith("/-/"):
        return "nothing" if path == "/-/healthy" else "operate"
    if path in STREAMS:
        return "publish" if method == "POST" else "subscribe"
    return "subscribe" if path == HISTORY else "any"


def build_runner(app: web.Application) -> web.AppRunner:
    """Return the runner that serves `app`.

    A handler is cancelled when its client goes: otherwise one that waits would never end. Bodies are not
    decompressed, so that a small one cannot become a large one. No access log: subscribers have their own lines.
    """
    head_bytes = app.get(HEAD_BYTES, AccessSettings().max_head_bytes)
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
        max_line_size=head_bytes,
        max_field_size=head_bytes,
        shutdown_timeout=1.0,
        handle_signals=False,
    )


async def serve(runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
    """Set `runner` up, and return what makes the protocol of one connection."""
    await runner.setup()
    server, connections, head_bytes = runner.server, runner.app[CONNECTIONS], runner.app[HEAD_BYTES]
    assert server is not None
    connections.server = server
    if not can_bound():
        log.warning("heads.unbounded", aiohttp=aiohttp.__version__)
        return server
    return lambda: BoundedHead(server(), connections, head_bytes)
