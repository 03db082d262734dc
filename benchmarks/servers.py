"""
The apps behind `benchmarks.stacks`, each served by a real server in a process of its own.

``python -m benchmarks.servers fastapi ours PORT`` serves until it is told to stop. Every app answers ``GET /hello`` with a
small JSON object, and ``GET /.cpu`` (in front of everything, alike for all) with the CPU seconds of its process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from benchmarks import stack_apps

__all__ = ["CPU_PATH", "main"]

CPU_PATH = "/.cpu"


def main(framework: str, variant: str, port: int) -> None:
    """
    Serve one app on loopback *port*: ASGI apps by uvicorn, WSGI apps by one sync worker of gunicorn.
    """
    app = stack_apps.build(framework, variant)
    if framework in stack_apps.ASGI:
        _serve_asgi(app, port)
    else:
        _serve_wsgi(app, port)


def _serve_asgi(app: Callable[..., Awaitable[None]], port: int) -> None:
    import uvicorn

    def front(scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope.get("path") == CPU_PATH:
            return _tell(send)
        return app(scope, receive, send)

    config = uvicorn.Config(front, port=port, interface="asgi3", log_level="error", access_log=False)
    uvicorn.Server(config).run()


async def _tell(send: Any) -> None:
    body = repr(time.process_time()).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _serve_wsgi(app: Callable[..., Iterable[bytes]], port: int) -> None:
    from gunicorn.app.base import BaseApplication

    def front(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != CPU_PATH:
            return app(environ, start_response)
        body = repr(time.process_time()).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    class _Server(BaseApplication):
        def load_config(self) -> None:
            for name, value in {"bind": f"127.0.0.1:{port}", "workers": 1, "loglevel": "error"}.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return front

    _Server().run()


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
