"""An ASGI app that plays the programs that it is told, bare or inside the middleware as the request says."""

import asgi_programs
import programs_host as shared

from tokenbudget_mw import ASGIMiddleware

NEEDS = {
    "http.response.early_hint": "skip",
    "http.response.trailers": "skip",
    "http.response.pathsend": {"type": "http.response.body", "body": b"no pathsend here"},
    "http.response.zerocopysend": {"type": "http.response.body", "body": b"no zerocopysend here"},
}


def fitting(program, extensions, *, is_drained=False):
    """
    *program* without what the server has not announced, and without waiting for a client that waits, too.

    A start has headers: without, granian says 500, and not where limits bring some. Nobody waits for two messages at once:
    granian leaves both unanswered, if the second is asked for as soon as the first has brought the whole body, and any
    function around its `receive` makes that happen.
    """
    for word, *rest in program:
        if word == "receive" or (word == "drain" and is_drained):
            continue
        is_drained = is_drained or word == "drain"
        if word in ("send", "start"):
            message = dict(rest[0])
            kind = message["type"]
            if kind not in extensions and kind in NEEDS:
                if NEEDS[kind] == "skip":
                    continue
                message = {**NEEDS[kind], "more_body": message.get("more_body", False)}
            if "http.response.trailers" not in extensions:
                message.pop("trailers", None)
            if kind == "http.response.start":
                message.setdefault("headers", [])
            if message["type"] == "http.response.pathsend":
                message["path"] = str(shared.FILE)
            if message["type"] == "http.response.zerocopysend":
                message["file"] = shared.FILE.open("rb")
            yield word, message
        elif word == "listen":
            yield word, list(fitting(rest[0], extensions, is_drained=True))
        elif word == "try":
            yield word, *(list(fitting(steps, extensions, is_drained=is_drained)) for steps in rest)
        else:
            yield word, *rest


async def app(scope, receive, send):
    """Play the program that the request names."""
    if scope["type"] == "lifespan":
        raise ValueError("no lifespan here")
    headers = dict(scope["headers"])
    name = headers.get(b"x-program")
    if name is None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body"})
        return
    steps = list(fitting(shared.program(name.decode()), scope.get("extensions") or {}))
    await asgi_programs.play(steps, receive, send, lambda _: None)


metered = ASGIMiddleware(app, shared.SETTINGS)


async def application(scope, receive, send):
    """Go through the middleware, or past it."""
    is_bare = scope["type"] != "lifespan" and b"x-subject" not in dict(scope["headers"])
    await (app if is_bare else metered)(scope, receive, send)
