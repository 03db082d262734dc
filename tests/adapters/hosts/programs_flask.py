"""A Flask app whose view answers as a program of WSGI's says, bare or inside the middleware as the request says."""

import programs_frameworks as frameworks
import programs_host as shared
from flask import Flask, Response, request, send_file

from tokenbudget_mw_flask import TokenBudget

application = Flask(__name__)
bare = application.wsgi_app
TokenBudget(application, shared.SETTINGS)
metered = application.wsgi_app


def switch(environ, start_response):
    """Go through the middleware, or past it."""
    return (metered if "HTTP_X_SUBJECT" in environ else bare)(environ, start_response)


application.wsgi_app = switch


@application.route("/read", methods=["GET", "POST"])
@application.route("/plain/x", methods=["GET", "POST"])
def view():
    """Answer as the program says."""
    program = shared.program(request.headers["x-program"])
    frameworks.read(program, request.stream)
    status, headers = frameworks.start_of(program)
    if program.kind == "file":
        return send_file(shared.FILE)
    chunks = frameworks.whole(program) if program.kind in ("list", "tuple") else frameworks.streamed(program)
    return Response(chunks, status, headers)
