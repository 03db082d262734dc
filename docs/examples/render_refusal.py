"""Give a refusal a body of the app's own."""

import json
from dataclasses import replace

from tokenbudget_mw import Decision, Facts, Refusal


# the function
def refused(refusal: Refusal, decision: Decision, facts: Facts) -> Refusal | None:
    """Return what the client gets; None leaves the usual refusal."""
    if not facts.path.startswith("/internal/"):
        return None
    body = {"ok": False, "reason": decision.code, "limits": list(decision.refused_by)}
    return replace(refusal, body=json.dumps(body).encode())


TOKENBUDGET = {
    "plans": {"free": ["1 request/minute"]},
    "identify": "ip",
    "render_refusal": refused,  # or its dotted path
}
