"""Find the subject through the app's own login."""

from tokenbudget_mw import Facts, Subject

SESSIONS = {"3f9a": ("ada", "acme")}  # stands for the app's session store: session id -> user and tenant


def who(facts: Facts) -> Subject | None:
    """Return who asks, or None for nobody."""
    cookie = facts.header("cookie") or ""
    session = SESSIONS.get(cookie.removeprefix("session="))
    if session is None:
        return None
    user, tenant = session
    return Subject(user=user, tenant=tenant, plan="pro")


TOKENBUDGET = {
    "identify": who,
    "plans": {"pro": ["100 requests/minute per user"]},
    "limits": ["$10k/month per tenant"],
}
