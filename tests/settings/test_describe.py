import dataclasses

import pytest

from tokenbudget_mw.settings import Settings, describe, describe_limit, parse_limit, reference, warnings_of

PEPPER = {"pepper": "x"}


def described(**mapping):
    return describe(Settings.from_mapping(PEPPER | mapping))


def warned(**mapping):
    return warnings_of(Settings.from_mapping(PEPPER | mapping))


def test_everything_that_is_enforced_is_said():
    """
    Plans, limits, routes and what happens otherwise stand in plain sentences.
    """
    assert described(
        backend="redis://:canary@localhost",
        database={"alias": "default"},
        routes=[
            {"path": "/v1/chat/completions", "format": "openai.chat", "methods": ["POST"], "count": "sample:0.1"},
            {"path": "/v1/embeddings", "format": "openai.embeddings", "count": "async"},
            {"path": "/assistant/*", "limits": ["1/second"]},
        ],
        plans={"free": {"limits": ["40k tokens/minute", "$5/month"], "holder": "user"}},
        limits=["4 concurrent", {"limit": "9/hour per global", "mode": "shadow"}],
        exempt=["/healthz"],
        timezone="Europe/Zurich",
    ) == [
        "Counters live in redis://:***@localhost; while it does not answer, the middleware gives each process its share of the limits.",
        "The books are kept in Django's database 'default'.",
        "A request's subject is found by its API key.",
        "POST /v1/chat/completions is metered as openai.chat; 10% of the prompts are counted.",
        "/v1/embeddings is metered as openai.embeddings; prompts are admitted on an estimate, and counted meanwhile.",
        "/assistant/* is metered as a request, and by what its handler reports.",
        "  At most 1 request in any second, for each key and route ('requests-second').",
        "Every other path passes unmetered.",
        "Never metered: /healthz.",
        "Plan 'free' (the default), for each user:",
        "  At most 40k tokens in any minute, for each user ('tokens-minute').",
        "  At most $5.00 in a calendar month, for each user ('money-month').",
        "Everybody, whatever the plan:",
        "  At most 4 calls at a time, for each key ('concurrent').",
        "  At most 9 requests in any hour, for everybody together ('requests-hour-global'; shadow: refuses nobody).",
        "A model without a price is charged the ceiling price.",
        "Calendar periods begin at midnight in Europe/Zurich.",
    ]


def test_no_limits_and_no_routes_are_said():
    """
    A configuration that limits nobody says so.
    """
    lines = described()

    assert lines[0] == "Counters live in memory://, in each process its own."
    assert "No routes are named, so every path is metered, as requests." in lines
    assert "There are no limits: requests are metered, and nobody is refused." in lines


def test_switched_off_and_shadow_are_said_first():
    """
    What changes everything else comes first.
    """
    assert described(enabled=False) == [
        "The middleware is switched off (`enabled` is False): nothing is metered, nobody is limited."
    ]
    assert described(mode="shadow")[0].startswith("Shadow mode")


@pytest.mark.parametrize(
    ("mapping", "warning"),
    [
        ({"workers": 4}, "up to 4 times every limit gets through"),
        ({"backend": "limits+memory://", "workers": 4}, "`backend` is limits+memory:// and `workers` is 4"),
        (
            {"unknown_price": "flag", "limits": ["$1/day"], "routes": [{"path": "/c", "format": "openai.chat"}]},
            "pass them free of charge",
        ),
        ({"plans": {"a": []}}, "plan 'a' has no limits"),
        ({"plans": {"a": ["1/day"], "b": ["2/day"]}}, "`default_plan` is not set"),
        ({"identify": "ip", "limits": ["1/day per tenant"]}, "an address has not"),
        ({"limits": ["5 tokens/day"]}, "count only what handlers report"),
        ({"query_keys": True}, "write to logs"),
        ({"limits": ["0/day"]}, "refuses every request"),
        ({"limits": ["60/minute", "9/minute"]}, "'60/minute' never refuses: '9/minute' beside it counts the same"),
        (
            {"plans": {"a": ["9/minute", "60/minute"]}},
            "'60/minute' never refuses: '9/minute' beside it counts the same",
        ),
        ({"routes": ["/healthz"], "exempt": ["/healthz"]}, "'/healthz' stands in `routes` and in `exempt`"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "any client can say where it comes from"),
        ({"deadline": 50}, "`deadline` is 50 seconds: so long may a request wait"),
    ],
)
def test_what_looks_like_a_mistake_is_warned_of(mapping, warning):
    """
    Each suspicious setting is told, after everything else.
    """
    settings = Settings.from_mapping(PEPPER | mapping)

    (told,) = warnings_of(settings)

    assert warning in told
    assert describe(settings)[-1] == f"Warning: {told}"


def test_keys_without_a_pepper_are_warned_of():
    """
    Only where keys are used does the missing pepper matter.
    """
    assert ["no API key can be made" in warning for warning in warnings_of(Settings())] == [True]
    assert warnings_of(Settings(identify="ip")) == []


def test_a_sound_configuration_warns_of_nothing():
    """
    Nobody learns to ignore warnings.
    """
    assert (
        warned(
            backend="redis://localhost",
            workers=4,
            routes=[{"path": "/v1/messages", "format": "anthropic.messages"}],
            plans={"free": ["60/minute", "$5/month per tenant"]},
        )
        == []
    )
    assert warned(enabled=False, workers=4) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5/10 minutes", "At most 5 requests in any 10 minutes, for each key ('requests-10-minutes')."),
        (
            "9 output tokens/calendar day per user",
            "At most 9 output tokens in a calendar day, for each user ('output-tokens-calendar-day-user').",
        ),
    ],
)
def test_a_limit_is_a_sentence(text, sentence):
    """
    A limit reads as a promise.
    """
    assert describe_limit(parse_limit(text)) == sentence


def test_the_reference_names_every_setting():
    """
    The documentation's table has each setting with type, default and meaning.
    """
    rows = reference()

    assert [row[0] for row in rows] == [
        field.name for field in dataclasses.fields(Settings) if field.name != "database_alias"
    ]
    assert all(kind and default and meaning.endswith(".") for _, kind, default, meaning in rows)
    assert ("lease", "seconds", "600.0") in [row[:3] for row in rows]
    assert ("limit_headers", "list of str", "['ietf']") in [row[:3] for row in rows]
    assert [row[:2] for row in rows if "[" in row[1] or "|" in row[1]] == []  # types as users write them, not Python's


def test_prepaid_is_said() -> None:
    """That accounts must have money is said where they must, and nowhere else."""
    sentence = "Accounts pay before: one whose balance is at or below zero is refused until it is topped up."

    assert sentence in describe(Settings.from_mapping({"prepaid": True}))
    assert sentence not in describe(Settings.from_mapping({}))
