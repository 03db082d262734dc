"""The plain ASGI host, as an app that knows no lifespan."""

import asgi_host
import host

from tokenbudget_mw import ASGIMiddleware


async def app(scope, receive, send):
    """Serve one request, and nothing else."""
    if scope["type"] != "http":
        raise ValueError(f"only http, not {scope['type']}")
    await asgi_host.app(scope, receive, send)


application = ASGIMiddleware(app, host.SETTINGS)
