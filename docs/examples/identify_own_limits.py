"""Who asks, by the host's own session, with the limits that the host has given to each user."""

from tokenbudget_mw import Facts, Subject, own_limits

USERS = {
    "s3cr3t-session": ("alice", ["300 requests/minute", {"limit": "$50/month", "until": "2027-01-01"}]),
    "other-session": ("bob", []),
}


def subject_of(facts: Facts) -> Subject | None:
    user, limits = USERS.get(facts.header("x-session") or "", (None, []))
    if user is None:
        return None  # a 401
    # what was read once is remembered, so this may be done for every request
    return Subject(key=user, user=user, plan="free", limits=own_limits(*limits, timezone="Europe/Zurich"))


TOKENBUDGET = {
    "identify": subject_of,
    "timezone": "Europe/Zurich",
    "plans": {"free": ["60 requests/minute", "$5/month"]},
}
