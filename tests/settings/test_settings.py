import dataclasses
import json
import pickle
from enum import Enum

import pytest

from tokenbudget_mw import settings as package
from tokenbudget_mw.errors import ConfigurationError
from tokenbudget_mw.settings import Secret, Settings, redact_url
from tokenbudget_mw.values import Route, Subject

WHOLE = {
    "backend": "redis://localhost:6379/0",
    "database": "postgresql+psycopg://localhost/app",
    "identify": "api_key",
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/v1/messages", "format": "anthropic.messages"},
        {"path": "/assistant/*"},
    ],
    "plans": {
        "free": ["60 requests/minute", "40k tokens/minute", "$5/month", "4 concurrent"],
        "pro": ["600 requests/minute", "2M tokens/minute per model", "$500/month"],
    },
    "limits": ["$10k/month per tenant"],
    "on_backend_error": "local",
    "unknown_price": "ceiling",
    "mode": "enforce",
}


def problems(mapping, env=None):
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(mapping, env)
    return str(caught.value).splitlines()


def test_nothing_said_takes_the_defaults():
    """
    An empty dict is a working configuration.
    """
    assert Settings.from_mapping({}) == Settings()
    assert Settings().backend == "memory://"


def test_the_documented_dict_is_understood():
    """
    The dict of the documentation gives its plans, routes and limits.
    """
    found = Settings.from_mapping(WHOLE)

    assert [route.format for route in found.routes] == ["openai.chat", "anthropic.messages", None]
    assert [limit.name for limit in found.plans["free"].limits] == [
        "requests-minute",
        "tokens-minute",
        "money-month",
        "concurrent",
    ]
    assert found.plans["pro"].limits[1].per == ("key", "model")
    assert found.limits[0].per == ("tenant",)


class CountsNothing:
    """A counter of which the class is no counter yet."""

    def count(self, text):
        """Count nothing."""
        return len(text) * 0


def test_all_problems_are_told_at_once():
    """
    Every problem is a line with its path and, where possible, what was meant.
    """
    assert problems(
        {
            "bakend": "redis://localhost",
            "timezone": "Europe/Zurch",
            "plans": {"free": ["60 requests/minute", "40k tokes/minute"], "pro": {"limit": []}},
            "routes": [{"path": "/v1", "format": "openai.chatt"}, "v1"],
            "workers": "two",
            "default_plan": "fre",
        }
    ) == [
        "at `bakend`: unknown setting; did you mean 'backend'?",
        "at `timezone`: unknown time zone 'Europe/Zurch'; did you mean 'Europe/Zurich'?",
        "at `workers`: a whole number is expected, not a str",
        "at `plans.free[1]`: unknown unit 'tokes'; did you mean 'tokens'?",
        "at `plans.pro[0]`: a text is expected, not a list",
        "at `routes[0].format`: unknown format 'openai.chatt'; did you mean 'openai.chat'?",
        "at `routes[1].path`: a path begins with '/', not 'v1'",
        "at `default_plan`: unknown plan 'fre'; did you mean 'free'?",
    ]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("backend", "redis", "a URL is expected"),
        ("backend", None, "a text is expected, not nothing (None)"),
        ("database", {"alas": "default"}, "{'alias': 'default'}"),
        ("database", 5, "a text is expected"),
        ("identify", "apikey", "did you mean 'api_key'?"),
        ("identify", "my app.f", "unknown way"),
        ("identify", 5, "a callable is expected, not a int"),
        ("default", "deny", "known: ignore, protect"),
        ("mode", "shadw", "did you mean 'shadow'?"),
        ("enabled", "yes", "True or False is expected"),
        ("lease", "soon", "not a duration"),
        ("lease", 0, "from 1 to 86400 seconds"),
        ("lease", True, "a duration is expected"),
        ("deadline", float("nan"), "from 0.001 to 60 seconds is expected, not nan"),
        pytest.param("deadline", 10**400, "from 0.001 to 60 seconds is expected, not 1000", id="beyond floats"),
        ("refusal_cache", -1, "from 0 to 60 seconds"),
        ("leased_term", 0.1, "from 0.25 to 60 seconds"),
        ("leased_most", 0, "from 1 to 1000000"),
        ("output_reserve", -1, "from 0 to"),
        ("output_reserve", 1.5, "a whole number is expected"),
        ("trusted_proxies", ["10.0.0"], "no address and no network"),
        ("trusted_proxies", 5, "a list is expected"),
        ("rates", {"EUR": "-1"}, "above 0"),
        ("rates", {"EUR": "x"}, "is not a number"),
        ("models", ["a"], "a dict is expected"),
        ("tokenizer", "fasttokens", "did you mean 'fastokens'?"),
        ("exact_chars", -1, "from 0 to 10000000"),
        ("precise_counts", 1, "True or False is expected"),
        ("counters", ["a"], "a dict is expected"),
        ("counters", {"mine": "words"}, "no dotted path; write it like 'myapp.tokens.llama'"),
        ("counters", {"mine": object()}, "an object with a method `count`"),
        ("counters", {"mine": ["words"]}, "is expected, not a list"),
        ("counters", {"mine": CountsNothing}, "is expected, not a type"),
        ("plans", ["free"], "a dict of plans by name"),
        ("limits", 5, "a list of limits is expected"),
        ("routes", "/v1", "a list of routes is expected"),
        ("tariffs", {}, "a list of prices is expected"),
        ("exempt", [5], "a text is expected"),
        ("exempt", ["healthz"], "'healthz' is no exact path; write it like '/healthz'"),
        ("exempt", ["/static/*"], "'/static/*' is no exact path"),
        ("pepper", 5, "a text is expected"),
        ("refusals", "plain", "known: auto"),
        ("ceiling", "150", "a price is a dict"),
    ],
)
def test_wrong_values_are_told_with_their_path(name, value, message):
    """
    A setting of the wrong type, or out of its range, fails at start under its own name.
    """
    (line,) = problems({name: value})

    assert line.startswith(f"at `{name}`: ")
    assert message in line


@pytest.mark.parametrize("value", [None, [], "x", 5])
def test_settings_are_a_dict(value):
    """
    Anything but a dict is refused.
    """
    assert problems(value)[0].startswith("at `TOKENBUDGET`: a dict is expected")


# -- plans and limits


class Word(str, Enum):  # noqa: UP042 - whose `str` says its name
    """What a host may have its words in."""

    SHADOW = "shadow"
    FREE = "free"
    IP = "ip"
    REDIS = "redis://localhost"
    ZONE = "Europe/Zurich"
    CHAT = "openai.chat"


def test_members_of_enumerations_are_their_values():
    """
    A host may have its words in an enumeration: they mean what they say, and not how they are called.
    """
    found = Settings.from_mapping(
        {
            "mode": Word.SHADOW,
            "identify": Word.IP,
            "backend": Word.REDIS,
            "timezone": Word.ZONE,
            "plans": {Word.FREE: {"limits": ["1/minute"], "mode": Word.SHADOW}, "pro": []},
            "default_plan": Word.FREE,
            "routes": [{"path": "/x", "format": Word.CHAT}],
        }
    )

    said = [found.mode, found.identify, found.backend, found.timezone, *found.plans, found.default_plan]
    said += [found.plans["free"].name, found.plans["free"].mode, found.routes[0].format]
    meant = [
        "shadow",
        "ip",
        "redis://localhost",
        "Europe/Zurich",
        "free",
        "pro",
        "free",
        "free",
        "shadow",
        "openai.chat",
    ]
    assert [f"{each}" for each in said] == meant


def test_a_plan_may_be_a_dict():
    """
    A plan says for whom it holds, and whether it only watches.
    """
    plan = Settings.from_mapping(
        {"plans": {"team": {"limits": ["5/minute", "9 tokens/day per model"], "holder": "team", "mode": "shadow"}}}
    ).plans["team"]

    assert (plan.holder, plan.mode) == ("team", "shadow")
    assert [(limit.per, limit.mode) for limit in plan.limits] == [(("team",), "shadow"), (("team", "model"), "shadow")]


def test_shadow_settings_put_every_limit_in_shadow():
    """
    The whole in shadow means every plan, route and limit, whatever they say.
    """
    found = Settings.from_mapping(
        {
            "mode": "shadow",
            "plans": {"a": {"limits": ["5/minute"], "mode": "enforce"}},
            "limits": [{"limit": "5/day", "mode": "enforce"}],
            "routes": [{"path": "/x", "limits": ["1/second"]}],
        }
    )

    limits = [*found.plans["a"].limits, *found.limits, *found.routes[0].limits]
    assert [limit.mode for limit in limits] == ["shadow"] * 3


def test_limits_inherit_what_happens_without_a_backend():
    """
    A limit that says nothing takes the settings' answer, and one that does keeps its own.
    """
    found = Settings.from_mapping(
        {
            "on_backend_error": "deny",
            "limits": ["5/day", {"limit": "9/hour", "on_backend_error": "allow"}],
        }
    )

    assert [limit.on_backend_error for limit in found.limits] == ["deny", "allow"]


def test_names_are_unique_in_what_one_request_meets():
    """
    Limits of one plan, of everybody and of a route have names of their own; two plans may use the same.
    """
    found = Settings.from_mapping(
        {
            "plans": {"a": ["5/minute", "9/minute per tenant", "7/60 seconds"], "b": ["1/minute"]},
            "limits": ["10/minute"],
            "routes": [{"path": "/x", "limits": ["1/minute"]}],
        }
    )

    assert [limit.name for limit in found.plans["a"].limits] == [
        "requests-minute",
        "requests-minute-tenant",
        "requests-minute-2",
    ]
    assert [limit.name for limit in found.plans["b"].limits] == ["requests-minute"]
    assert [limit.name for limit in found.limits] == ["requests-minute-3"]
    assert [limit.name for limit in found.routes[0].limits] == ["requests-minute-4"]


def test_the_same_limit_twice_is_kept_once():
    """
    A repeated line is no second limit.
    """
    assert len(Settings.from_mapping({"limits": ["5/minute", "5/minute"]}).limits) == 1


def test_several_limits_in_one_text():
    """
    A list of limits may be one text.
    """
    assert len(Settings.from_mapping({"limits": "5/minute; 10/hour, $5/month"}).limits) == 3


@pytest.mark.parametrize(
    ("plans", "expected"),
    [({}, None), ({"a": []}, "a"), ({"a": [], "b": []}, None), ({"a": [], "default": []}, "default")],
)
def test_the_default_plan_is_the_natural_one(plans, expected):
    """
    Unset, it is the plan named so, or the only one.
    """
    assert Settings.from_mapping({"plans": plans}).default_plan == expected


def test_money_in_another_currency_needs_its_rate():
    """
    The rate of the settings turns a limit into dollars.
    """
    assert Settings.from_mapping({"rates": {"eur": 1.08}, "limits": ["EUR 5/month"]}).limits[0].amount == 5_400_000_000
    assert "no rate is known for EUR" in problems({"limits": ["EUR 5/month"]})[0]


# -- routes


def test_a_route_says_what_it_meters():
    """
    All parts of a route are read.
    """
    (route,) = Settings.from_mapping(
        {
            "routes": [
                {
                    "path": "/v1/chat/completions",
                    "format": "openai.chat",
                    "methods": "post, put",
                    "count": "sample:0.1",
                    "settle": {"client_gone": "reserved"},
                }
            ]
        }
    ).routes

    assert route == Route(
        "/v1/chat/completions",
        "openai.chat",
        frozenset({"POST", "PUT"}),
        "sample",
        0.1,
        settle={"client_gone": "reserved"},
    )


def test_a_route_may_be_a_path():
    """
    A path alone is a route whose handler reports.
    """
    assert Settings.from_mapping({"routes": ["/x"]}).routes == (Route("/x"),)


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({}, "at `routes[0]`: a route needs its 'path'"),
        ({"path": None}, "at `routes[0]`: a route needs its 'path'"),
        ({"path": "/a", "methods": ["GTE"]}, "at `routes[0].methods`: unknown method 'GTE'; did you mean 'GET'?"),
        ({"path": "/a", "methods": "post puts"}, "'post puts' is no method; write them like ['GET', 'POST']"),
        ({"path": "/a/*/b"}, "at `routes[0].path`: '/a/*/b' is a pattern"),
        ({"path": "/a/{id}"}, "at `routes[0].path`: '/a/{id}' is a pattern"),
        ({"path": "/a?b"}, "at `routes[0].path`: '/a?b' is a pattern"),
        ({"path": "/a", "fromat": "x"}, "at `routes[0].fromat`: unknown setting; did you mean 'format'?"),
        ({"path": "/a", "count": "som"}, "at `routes[0].count`: unknown way of counting 'som'"),
        ({"path": "/a", "count": "sample"}, "at `routes[0].count`: 'sample' needs its share"),
        ({"path": "/a", "count": "sample:2"}, "at `routes[0].count`: a share is a number from 0 to 1"),
        ({"path": "/a", "count": "sample:x"}, "at `routes[0].count`: 'x' is no share"),
        ({"path": "/a", "count": "full:1"}, "at `routes[0].count`: 'full' has no share"),
        ({"path": "/a", "settle": {"complet": "actual"}}, "did you mean 'complete'?"),
        ({"path": "/a", "settle": {"complete": "actul"}}, "did you mean 'actual'?"),
        ({"path": "/a", "format": "openai.chat", "on_budget_end": "finnish"}, "did you mean 'finish'?"),
        ({"path": "/a", "on_budget_end": "error"}, "ending a stream needs the route's 'format'"),
        ({"path": "/a", "format": "openai.images", "on_budget_end": "finish"}, "one of anthropic.messages"),
        ({"path": "/a", "limits": ["1/minuet"]}, "at `routes[0].limits[0]`: unknown window 'minuet'"),
        (5, "at `routes[0]`: a route is a path or a dict"),
    ],
)
def test_wrong_routes(route, message):
    """
    A route with anything wrong in it says where.
    """
    assert message in problems({"routes": [route]})[0]


@pytest.mark.parametrize("method", ["get", " POST", "PROPPATCH", "ORDERPATCH", "REPORT", "PURGE", "SEARCH", "MKCOL"])
def test_methods_of_every_kind_are_taken(method):
    """
    Methods are written in any case, and those of WebDAV and of caches are no slips.
    """
    (route,) = Settings.from_mapping({"routes": [{"path": "/a", "methods": [method]}]}).routes

    assert route.methods == {method.strip().upper()}


def test_routes_that_cannot_be_read_cover_no_others():
    """
    A wrong path is told once, and not as another route of the same path.
    """
    assert problems({"routes": ["/a/{id}", {"pth": "/b"}, 5, "*"]}) == [
        "at `routes[0].path`: '/a/{id}' is a pattern; give an exact path, or a prefix that ends in '*' such as '/v1/*'",
        "at `routes[1].pth`: unknown setting; did you mean 'path'?",
        "at `routes[1]`: a route needs its 'path', such as '/v1/chat/completions' or '/v1/*'",
        "at `routes[2]`: a route is a path or a dict, not a int",
    ]


def test_a_route_that_is_never_reached_is_told():
    """
    Two routes of one path are fine where their methods differ.
    """
    by_method = [{"path": "/x", "methods": ["GET"]}, {"path": "/x/", "methods": ["POST"]}]

    assert len(Settings.from_mapping({"routes": by_method}).routes) == 2
    assert problems({"routes": ["/x", "//X"]}) == ["at `routes[1]`: '//X' is covered by another route of the same path"]


# -- the environment


def test_the_environment_overrides_the_dict():
    """
    Scalars are read as their type, structures as JSON.
    """
    env = {
        "TOKENBUDGET_BACKEND": "redis://other",
        "TOKENBUDGET_ENABLED": "off",
        "TOKENBUDGET_WORKERS": "4",
        "TOKENBUDGET_DEADLINE": "0.1",
        "TOKENBUDGET_LEASE": "15m",
        "TOKENBUDGET_TRUSTED_PROXIES": "10.0.0.0/8, 192.168.1.1",
        "TOKENBUDGET_LIMITS": "5/minute; 10/hour",
        "TOKENBUDGET_PLANS": json.dumps({"only": ["$1/day"]}),
        "TOKENBUDGET_PEPPER": "0123",
        "TOKENBUDGET_DATABASE": '{"alias": "default"}',
        "OTHER": "x",
    }
    found = Settings.from_mapping({"backend": "redis://mine", "mode": "shadow"}, env)

    assert (found.backend, found.mode, found.enabled) == ("redis://other", "shadow", False)
    assert (found.workers, found.deadline, found.lease) == (4, 0.1, 900.0)
    assert found.trusted_proxies == ("10.0.0.0/8", "192.168.1.1/32")
    assert [limit.amount for limit in found.limits] == [5, 10]
    assert found.default_plan == "only"
    assert found.pepper.value == "0123"
    assert (found.database, found.database_alias) == (None, "default")


def test_the_environment_alone_is_enough():
    """
    Without a dict the environment is the configuration.
    """
    assert Settings.from_env({"TOKENBUDGET_WORKERS": "2"}) == Settings(workers=2)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("TOKENBUDGET_BACKND", "x://", "at `TOKENBUDGET_BACKND`: unknown setting; did you mean 'TOKENBUDGET_BACKEND'?"),
        ("TOKENBUDGET_ENABLED", "maybe", "at `TOKENBUDGET_ENABLED`: true or false is expected"),
        ("TOKENBUDGET_WORKERS", "many", "at `workers` (TOKENBUDGET_WORKERS): a whole number is expected, not a str"),
        ("TOKENBUDGET_LIMITS", "5/never", "at `limits[0]` (TOKENBUDGET_LIMITS): "),
        ("TOKENBUDGET_PLANS", "{", "at `TOKENBUDGET_PLANS`: this is no JSON"),
    ],
)
def test_a_wrong_environment_is_told(variable, value, message):
    """
    A variable that is misspelt or unreadable fails at start.
    """
    assert problems({}, {variable: value})[0].startswith(message)


def test_other_variables_are_left_alone():
    """
    A variable with our prefix that is near no setting is somebody else's.
    """
    assert Settings.from_env({"TOKENBUDGET_TEST_REDIS_URL": "redis://x"}) == Settings()


# -- as a value


def test_settings_are_frozen_and_replaced():
    """
    Settings do not change; a changed copy is made.
    """
    found = Settings()

    with pytest.raises(dataclasses.FrozenInstanceError):
        found.workers = 2  # type: ignore[misc]
    assert found.replace(workers=2).workers == 2
    assert found.workers == 1


def test_a_callable_identifies():
    """
    A callable, or the dotted path to one, is kept for the wiring to use.
    """

    def nobody(facts):
        return Subject(key=facts.path)

    assert Settings.from_mapping({"identify": nobody}).identify is nobody
    assert Settings.from_mapping({"identify": "myapp.limits:subject_of"}).identify == "myapp.limits:subject_of"


def test_no_secret_is_shown():
    """
    Neither the settings, nor a secret, nor an error shows a password or the pepper.
    """
    found = Settings.from_mapping(
        {
            "backend": "redis://:canary1@localhost",
            "database": "postgresql://app:canary2@localhost/app",
            "pepper": "canary3",
        }
    )

    assert "canary" not in repr(found)
    assert "localhost" in repr(found)
    assert "canary" not in f"{found.pepper} {found.pepper!r}"
    assert "canary" not in str(problems({"backend": ["redis://:canary@x"], "database": {"url": "x://a:canary@b"}}))


def test_a_secret_is_compared_and_not_pickled():
    """
    A secret is equal to the same secret, is false when empty, and does not leave the process.
    """
    assert Secret("a") == Secret("a") != Secret("b")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != "a"
    assert not Secret()
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(Secret("a"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost/0", "redis://localhost/0"),
        ("redis://:pw@localhost/0", "redis://:***@localhost/0"),
        ("redis://user:p@w@localhost/0", "redis://user:***@localhost/0"),
        ("redis://user:p/w@localhost/0", "redis://user:***@localhost/0"),
        ("postgresql://u:p w@db/app", "postgresql://u:***@db/app"),
        ("postgresql://u:p\nw@db/app", "postgresql://u:***@db/app"),
        ("postgresql://app@server:pw@db/app", "postgresql://app@server:***@db/app"),
        ("postgresql://an app:pw@db/app", "postgresql://an app:***@db/app"),
        ("postgresql+psycopg://u:pw@db/app?password=pw&x=1", "postgresql+psycopg://u:***@db/app?password=***&x=1"),
        ("sqlite:///a.db", "sqlite:///a.db"),
    ],
)
def test_urls_are_shown_without_passwords(url, shown):
    """
    A URL can be printed without its password, wherever that stands.
    """
    assert redact_url(url) == shown


def test_the_package_offers_what_it_names():
    """
    Everything that is exported exists.
    """
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"messages": {"limits": "x"}}, "unknown reason 'limits'; did you mean 'limit'?"),
        ({"messages": {"limit": "{wait}"}}, "it names 'wait'; known: message"),
        ({"messages": {"limit": "{"}}, "the message for 'limit' is no template"),
        ({"messages": {"limit": "{retry_after:d}"}}, "the message for 'limit' is no template"),
        ({"messages": {"de": {"limit": "x"}, "limit": "x"}}, "by reason, or by language and reason, not both"),
        ({"messages": ["x"]}, "a dict is expected"),
        ({"render_refusal": "refused"}, "a callable or a dotted path"),
        ({"limit_headers": ["open_ai"]}, "did you mean 'openai'?"),
        ({"cors_origins": ["https://x/"]}, "is no origin"),
        ({"cors_origins": "app.example.com"}, "is no origin"),
    ],
)
def test_senseless_refusals_fail_at_start(given, message):
    """
    What would fail in a refusal fails at start, with what is meant.
    """
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(given)

    assert message in str(caught.value)


def test_refusals_are_set_by_the_environment():
    """
    Messages are JSON in the environment, lists are separated by commas.
    """
    settings = Settings.from_env({
        "TOKENBUDGET_MESSAGES": '{"de": {"limit": "Genug."}}',
        "TOKENBUDGET_LIMIT_HEADERS": "ietf, auto",
        "TOKENBUDGET_CORS_ORIGINS": "https://a.example, https://b.example",
    })  # fmt: skip

    assert settings.messages == {"de": {"limit": "Genug."}}
    assert settings.limit_headers == ("ietf", "auto")
    assert settings.cors_origins == ("https://a.example", "https://b.example")
