"""The contract's host as a plain WSGI app."""

import json

import host

from tokenbudget_mw import WSGIMiddleware, current
from tokenbudget_mw.limiting import EndpointLimit
from tokenbudget_mw.wsgi import facts_of

LIMITED = EndpointLimit.parse(("2 requests/minute",), name="limited")


def app(environ, start_response):
    """Serve one request."""
    path = environ["PATH_INFO"]
    headers = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    if path.startswith("/v1/"):
        answered = host.answer(path, body, headers)
        if answered.abort_at == 0:
            answered.check(0)
        start_response(f"{answered.status} Fake", list(answered.headers))
        return host.slowly(answered, host.pause(headers))
    text = json.dumps(answer(path, body, environ)).encode()
    start_response("200 OK", [("content-type", "application/json"), ("content-length", str(len(text)))])
    return [text]


def answer(path, body, environ):
    """Do what the path asks for."""
    match path:
        case "/flush":
            return {"flushed": middleware.core.flush()}
        case "/assistant/charge":
            return host.charge(body)
        case "/assistant/reserve":
            return host.reserve(body)
        case "/assistant/raise":
            raise RuntimeError("the app fails")
        case "/assistant/limited":
            LIMITED.admit(middleware.core, facts_of(environ))
            return {"key": current().subject.key}
        case _:
            return {"path": path}


application = middleware = WSGIMiddleware(app, host.SETTINGS)
