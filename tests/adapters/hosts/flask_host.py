"""The contract's host as a Flask app."""

import host
from flask import Flask, Response, request

from tokenbudget_mw_flask import TokenBudget, core_of, current

application = Flask(__name__)
application.config["TOKENBUDGET"] = host.SETTINGS
budget = TokenBudget()
budget.init_app(application)


@application.post("/v1/chat/completions")
@application.post("/v1/messages")
def model():
    """Answer as the provider."""
    answered = host.answer(request.path, request.get_data(), {k.lower(): v for k, v in request.headers.items()})
    if answered.abort_at == 0:
        answered.check(0)
    chunks = host.slowly(answered, host.pause({k.lower(): v for k, v in request.headers.items()}))
    return Response(chunks if len(answered.chunks) > 1 else answered.chunks[0], answered.status, answered.headers)


@application.post("/flush")
def flush():
    """Write what waits."""
    return {"flushed": core_of(application).flush()}


@application.post("/assistant/charge")
def charge():
    """Charge."""
    return host.charge(request.get_data())


@application.post("/assistant/reserve")
def reserve():
    """Reserve."""
    return host.reserve(request.get_data())


@application.post("/assistant/raise")
def fail():
    """Fail."""
    raise RuntimeError("the app fails")


@application.get("/assistant/limited")
@budget.limit("2 requests/minute")
def limited():
    """Answer twice a minute."""
    return {"key": current().subject.key}
