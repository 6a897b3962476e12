"""Which handler answers which path, and the aiohttp runner that serves them."""

from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

from opencode_events.broker.broker import Broker
from opencode_events.settings import ServerSettings
from opencode_events.web.bodies import Bodies
from opencode_events.web.connections import Connections
from opencode_events.web.cors import Cors
from opencode_events.web.history import History
from opencode_events.web.operate import Look, Operate, Statistics, nothing_seen
from opencode_events.web.problems import Handler, guarded, refusal
from opencode_events.web.publish import Publish
from opencode_events.web.subscribe import Subscribe
from opencode_events.web.turnstile import Turnstile

# Seconds that an idle connection is kept; longer than the 60 s after which proxies give theirs up.
KEEPALIVE_S = 75.0
READ_BYTES = 64 * 1024
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
) -> web.Application:
    """Return the application. Unknown paths and methods get problem documents too.

    `connections` is told of every request; `look` returns what the watchdog sees of a subscriber's connection.
    """
    watched = Connections() if connections is None else connections  # one without connections is false
    cors = Cors(frozenset(origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()))
    bodies = Bodies(settings.max_unfinished_bytes)
    turnstile = Turnstile(HANDSHAKES_A_TURN)
    operate = Operate(version, broker, parts, look)
    routes: dict[str, dict[str, Handler]] = {
        "/event": {
            "GET": Subscribe("instance", broker, settings, cors, turnstile),
            "POST": Publish("instance", broker, settings, bodies),
        },
        "/global/event": {
            "GET": Subscribe("global", broker, settings, cors, turnstile),
            "POST": Publish("global", broker, settings, bodies),
        },
        "/global/health": {"GET": operate.health},
        "/sync/history": {"POST": History(broker, settings, bodies, cors)},
        "/-/healthy": {"GET": operate.healthy},
        "/-/ready": {"GET": operate.ready},
        "/-/status": {"GET": operate.status},
        "/-/subscribers": {"GET": operate.subscribers},
        "/-/subscribers/{id}": {"DELETE": operate.evict},
    }
    app = web.Application()
    for path, methods in routes.items():
        for method, handler in methods.items():
            app.router.add_route(method, path, guarded(handler, cors, watched))
        app.router.add_route("OPTIONS", path, guarded(cors.preflight, cors, watched))
        allow = ", ".join([*methods, "OPTIONS"])
        app.router.add_route("*", path, guarded(refusal(HTTPStatus.METHOD_NOT_ALLOWED, allow=allow), cors, watched))
    app.router.add_route("*", "/{path:.*}", guarded(refusal(HTTPStatus.NOT_FOUND), cors, watched))
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
        shutdown_timeout=1.0,
        handle_signals=False,
    )
