"""A WSGI app that plays the programs that it is told, bare or inside the middleware as the request says."""

import programs_host as shared
import wsgi_programs

from tokenbudget_mw import WSGIMiddleware


def app(environ, start_response):
    """Play the program that the request names."""
    name = environ.get("HTTP_X_PROGRAM")
    if name is None:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"nothing"]
    environ.setdefault("wsgi.file_wrapper", wsgi_programs.FileWrapper)
    return wsgi_programs.playing(shared.program(name))(environ, start_response)


metered = WSGIMiddleware(app, shared.SETTINGS)


def application(environ, start_response):
    """Go through the middleware, or past it."""
    return (metered if "HTTP_X_SUBJECT" in environ else app)(environ, start_response)
