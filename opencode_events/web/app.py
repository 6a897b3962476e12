"""Which handler answers which path, and the aiohttp runner that serves them."""

from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

from opencode_events.broker.broker import Broker
from opencode_events.credentials import Credentials
from opencode_events.events import Stream
from opencode_events.settings import ServerSettings
from opencode_events.web.access import Access, expect_later, parse_hosts
from opencode_events.web.bodies import Bodies
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors
from opencode_events.web.history import History
from opencode_events.web.operate import Look, Operate, Statistics, nothing_seen
from opencode_events.web.problems import Guard, Handler, forbidding, refusal
from opencode_events.web.publish import Publish
from opencode_events.web.shield import Shield, spelled_out
from opencode_events.web.subscribe import Subscribe
from opencode_events.web.turnstile import Turnstile

# Seconds that an idle connection is kept; longer than the 60 s after which proxies give theirs up.
KEEPALIVE_S = 75.0
READ_BYTES = 64 * 1024
# One line of a request's head, as much as Node takes: a path with its query, a cookie.
HEAD_BYTES = 16 * 1024
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
    credentials: Credentials | None = None,
    shield: Shield | None = None,
) -> web.Application:
    """Return the application. Unknown paths and methods get problem documents too, or are passed through a shield.

    `connections` is told of every request; `look` returns what the watchdog sees of a subscriber's connection.
    `credentials` are what everybody has to show.
    """
    watched = Connections() if connections is None else connections  # one without connections is false
    cors = Cors(frozenset(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()))
    bodies = Bodies(settings.max_unfinished_bytes)
    guard = Guard(Access(credentials, parse_hosts(settings.allowed_hosts), cors), cors, watched)
    turnstile = Turnstile(HANDSHAKES_A_TURN)
    operate = Operate(version, broker, parts, look, shield)
    routes: dict[str, dict[str, Handler]] = {
        "/-/healthy": {"GET": operate.healthy},
        "/-/ready": {"GET": operate.ready},
        "/-/status": {"GET": operate.status},
        "/-/subscribers": {"GET": operate.subscribers},
        "/-/subscribers/{id}": {"DELETE": operate.evict},
    }
    streams: dict[str, Stream] = {"/event": "instance", "/global/event": "global"}
    for path, stream in streams.items():
        routes[path] = {"GET": Subscribe(stream, broker, settings, cors, turnstile, shield)}
        if shield is None or shield.allow_publish:
            routes[path]["POST"] = Publish(stream, broker, settings, bodies)
        else:
            routes[path]["POST"] = forbidding("this is the stream of upstream's events; the setting is allow_publish")
    if shield is None:
        routes["/global/health"] = {"GET": operate.health}
        routes["/sync/history"] = {"POST": History(broker, settings, bodies, cors)}

    async def others(request: web.Request) -> web.StreamResponse:
        """Answer what is not ours, unless it is one of our streams in another spelling."""
        assert shield is not None
        path = spelled_out(request.path) if request.method == "GET" else ""
        return await (routes[path]["GET"] if path in streams else shield.pass_through)(request)

    app = web.Application()
    for path, methods in routes.items():
        for method, handler in methods.items():
            app.router.add_route(method, path, guard(handler))
        app.router.add_route("OPTIONS", path, guard(cors.preflight))
        if shield is None or path not in streams:
            allow = ", ".join([*methods, "OPTIONS"])
            app.router.add_route("*", path, guard(refusal(HTTPStatus.METHOD_NOT_ALLOWED, allow=allow)))
    if shield is not None:
        app.router.add_route("*", f"/-/{REST}", guard(refusal(HTTPStatus.NOT_FOUND)))
        app.router.add_route("*", f"/{REST}", guard(others), expect_handler=expect_later)
    else:
        app.router.add_route("*", f"/{REST}", guard(refusal(HTTPStatus.NOT_FOUND)))
    return app


def build_runner(app: web.Application) -> web.AppRunner:
    """Return the runner that serves `app`.

    A handler is cancelled when its client goes: otherwise one that waits would never end. Bodies are not
    decompressed, so that a small one cannot become a large one. No access log: subscribers have their own lines.
    """
    return web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE_S,
        auto_decompress=False,
        read_bufsize=READ_BYTES,
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
        shutdown_timeout=1.0,
        handle_signals=False,
    )
