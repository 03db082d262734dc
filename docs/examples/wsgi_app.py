"""A plain WSGI app with limits: gunicorn wsgi_app:app"""

from tokenbudget_mw import WSGIMiddleware, current


def hello(environ, start_response):
    current().charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello\n"]


app = WSGIMiddleware(
    hello,
    {
        "identify": "ip",
        "plans": {"free": ["3 requests/minute", "40k tokens/minute", "$5/month"]},
    },
)
