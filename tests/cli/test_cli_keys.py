"""
``keys``: from a key's making to its end.
"""

from __future__ import annotations

import time
from datetime import datetime

import pytest
from sqlalchemy import insert, select

from tokenbudget_mw.cli.keys import curl
from tokenbudget_mw.database import tables
from tokenbudget_mw.rules.identity import parse_key


@pytest.fixture
def keys(run, engine, sqlite_database, monkeypatch):
    """
    Run a `keys` action on a migrated database, with a pepper.
    """
    monkeypatch.setenv("TOKENBUDGET_PEPPER", "canary-pepper")
    monkeypatch.setenv("TOKENBUDGET_DATABASE", sqlite_database)
    return lambda *argv: run("keys", *argv)


def test_a_key_is_shown_once(keys):
    """Creating prints the key and a curl that uses it; listing never shows it again."""
    made = keys("create", "--name", "mine", "--tenant", "acme", "--user", "u1")
    key = next(word for word in made.out.split() if word.startswith("tb_live_"))

    assert made.code == 0
    assert f"Authorization: Bearer {key}" in made.out
    listed = keys("list").out
    assert parse_key(key).kid in listed
    assert "acme" in listed
    assert key not in listed


def test_json_gives_the_key_and_its_row(keys):
    """With --json the key and all that is stored of it are one object."""
    made = keys("create", "--json", "--team", "t", "--project", "p", "--purpose", "batch").json

    assert parse_key(made["key"]).kid == made["kid"]
    assert (made["team"], made["project"], made["purpose"], made["status"]) == ("t", "p", "batch", "active")
    listed = keys("list", "--json").json["keys"]
    assert [row["kid"] for row in listed] == [made["kid"]]
    assert "key" not in listed[0]


def test_a_limit_of_an_owner_that_the_key_lacks_is_told(keys):
    """It is kept, since the key's plan may be anybody's, and it is said that it holds nobody."""
    made = keys("create", "--tenant", "acme", "--limit", "$5/month per user", "--limit", "$9/month per tenant").out

    told = [line for line in made.splitlines() if line.endswith("It holds nobody: the key has no user.")]
    assert len(told) == 1
    assert "$5.00" in told[0]


def test_bad_use_of_an_action_shows_its_own_usage(keys):
    """Not the command's, which only lists the actions; and a key that would be dead from the start is not made."""
    ran = keys("create", "--expires", "2020-01-01")

    assert (ran.code, "--expires: '2020-01-01' is past." in ran.err) == (2, True)
    assert "keys create [-h]" in ran.err
    assert keys("list").out.strip() == "There are no keys."


def test_a_whole_key_stands_for_its_id(keys, run):
    """A key may be pasted where its id is asked for: it is found, and no more of it than the id is told."""
    made = keys("create", "--json").json
    revoked = keys("revoke", made["key"])
    unknown = keys("suspend", f"tb_live_{'0' * 12}{made['key'][20:]}")

    assert revoked.out.startswith(f"Key {made['kid']} is revoked.")
    assert (unknown.code, made["key"][21:] in unknown.err) == (2, False)
    assert run("usage", "--key", made["key"]).code == 0


def test_every_key_is_listed(keys, engine):
    """The newest of many are not left out."""
    kid = keys("create", "--json").json["kid"]
    with engine.begin() as connection:
        row = dict(connection.execute(select(tables.keys)).mappings().one())
        connection.execute(insert(tables.keys), [row | {"kid": f"{at:012}"} for at in range(1001)])

    assert len(keys("list", "--json").json["keys"]) == 1002
    assert kid in keys("list").out


@pytest.mark.parametrize(
    ("expires", "message"), [("2020-01-01", "'2020-01-01' is past"), ("soon", "'soon' is neither a date")]
)
def test_a_key_ends_in_the_time_to_come(keys, expires, message):
    """A key that would be refused from the start is not made."""
    said = keys("create", "--expires", expires)

    assert (said.code, f"--expires: {message}" in said.err) == (2, True)
    assert keys("list").out.strip() == "There are no keys."


def test_a_key_is_suspended_resumed_and_revoked(keys):
    """The status follows, and what is revoked stays so."""
    kid = keys("create", "--json").json["kid"]

    assert keys("suspend", kid, "--json").json["status"] == "suspended"
    assert keys("resume", kid, "--json").json["status"] == "active"
    assert "revoked" in keys("revoke", kid).out
    assert keys("resume", kid).code == 2
    assert keys("list", "--status", "active").out.strip() == "There are no keys."


def test_an_owners_keys_are_changed_together(keys):
    """Every key of a tenant and a team is suspended, resumed and revoked by one command; others stay."""
    for tenant, team in (("acme", "red"), ("acme", "blue"), ("other", "red")):
        keys("create", "--tenant", tenant, "--team", team)

    one = keys("suspend", "--tenant", "acme", "--team", "red", "--json").json
    back = keys("resume", "--tenant", "acme")
    gone = keys("revoke", "--tenant", "acme")
    again = keys("revoke", "--tenant", "acme")

    assert [(row["tenant"], row["team"], row["status"]) for row in one["keys"]] == [("acme", "red", "suspended")]
    assert back.out.strip() == "1 key changed. The app knows within 10 s."
    assert gone.out.startswith("2 keys changed.")
    assert again.out.startswith("0 keys changed.")
    assert [row["tenant"] for row in keys("list", "--status", "active", "--json").json["keys"]] == ["other"]


@pytest.mark.parametrize("arguments", [(), ("KID", "--tenant", "acme")])
def test_a_key_or_an_owner_is_named(keys, arguments):
    """Neither and both are refused, with what to name."""
    said = keys("revoke", *arguments)

    assert said.code == 2
    assert "name one key, or an owner by --user, --team, --project, --tenant" in said.err


@pytest.mark.parametrize(
    ("action", "within"),
    [("suspend", "at its next request"), ("resume", "within 10 s"), ("revoke", "at its next request")],
)
def test_a_change_says_when_the_app_knows(keys, monkeypatch, redis_db, action, within):
    """Where processes share a Redis they know at once; a resumed key may wait for the cache."""
    kid = keys("create", "--json").json["kid"]
    monkeypatch.setenv("TOKENBUDGET_BACKEND", redis_db)

    assert f"The app knows {within}." in keys(action, kid).out


def test_a_change_while_redis_is_away_is_made(keys, monkeypatch):
    """The table has it, the command succeeds and says that the app may take a while."""
    kid = keys("create", "--json").json["kid"]
    monkeypatch.setenv("TOKENBUDGET_BACKEND", "redis://127.0.0.1:1/0")

    said = keys("revoke", kid)

    assert (said.code, said.out.strip()) == (0, f"Key {kid} is revoked. The app knows within 10 s.")


def test_a_key_is_rotated(keys):
    """Rotation makes a new key for the same owner, and the old one ends after the grace."""
    old = keys("create", "--json", "--tenant", "acme").json

    new = keys("rotate", old["kid"], "--grace", "2 hours", "--json").json

    assert new["replaces"] == old["kid"]
    assert new["tenant"] == "acme"
    assert new["key"] != old["key"]
    row = next(row for row in keys("list", "--json").json["keys"] if row["kid"] == old["kid"])
    left = datetime.fromisoformat(row["expires_at"]).timestamp() - time.time()
    assert 7000 < left <= 7200


@pytest.mark.parametrize(
    ("when", "expected"),
    [("2090-01-31", "2090-01-31T00:00:00+00:00"), ("2090-01-31T12:00+02:00", "2090-01-31T10:00:00+00:00")],
)
def test_an_end_may_be_a_date(keys, when, expected):
    """`--expires` takes ISO 8601, in UTC where no zone is named."""
    assert keys("create", "--expires", when, "--json").json["expires_at"] == expected


def test_an_end_may_be_a_duration(keys):
    """`--expires` takes a duration from now."""
    made = keys("create", "--expires", "30 days", "--json").json

    left = datetime.fromisoformat(made["expires_at"]).timestamp() - time.time()
    assert 30 * 86_400 - 60 < left <= 30 * 86_400


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (("create", "--expires", "someday"), "someday"),
        (("rotate", "nobody"), "nobody"),
        (("rotate", "nobody", "--grace", "a while"), "--grace"),
        (("rotate", "nobody", "--grace", "99999999 days"), "--grace: '99999999 days' is too far away"),
        (("create", "--expires", "9999999 days"), "--expires: '9999999 days' is too far away"),
        (("create", "--expires", "9999-12-31T23:00-02:00"), "is too far away"),
        (
            ("limit", "nobody", "--limit", "3/minute", "--until", "99999999 days"),
            "--until: '99999999 days' is too far away",
        ),
        (("create", "--limit", '{"limit": "3/minute", "until": "9999-12-31T23:00-02:00"}'), "is too far away"),
        (("suspend", "nobody"), "nobody"),
        (("create", "--user", "u" * 300), "user"),
        (("create", "--purpose", "fun"), "fun"),
    ],
)
def test_what_cannot_be_done_is_said(keys, argv, word):
    """Wrong values and unknown keys end with 2 and name what was wrong."""
    ran = keys(*argv)

    assert ran.code == 2
    assert word in ran.err


def test_an_unknown_plan_is_refused(keys, monkeypatch):
    """A key on a plan that does not exist would be refused at its first request: it is not made."""
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["1/minute"]}')

    assert keys("create", "--plan", "fre").code == 2
    assert keys("create", "--plan", "free").code == 0
    assert "Known plans: free" in keys("create", "--plan", "fre").err


def test_no_key_is_made_without_a_pepper(run, engine, sqlite_database):
    """Without a pepper the command says how to set it."""
    ran = run("keys", "create", "--database", sqlite_database)

    assert ran.code == 2
    assert "TOKENBUDGET_PEPPER" in ran.err


def test_missing_tables_name_migrate(run, sqlite_database, monkeypatch):
    """Without tables the command says what makes them."""
    monkeypatch.setenv("TOKENBUDGET_PEPPER", "canary-pepper")

    ran = run("keys", "create", "--database", sqlite_database)

    assert ran.code == 2
    assert "tokenbudget-mw migrate" in ran.err


def test_the_curl_speaks_the_route_s_format(keys, monkeypatch):
    """The ready command goes to the first route with a format, with a body of that format."""
    monkeypatch.setenv("TOKENBUDGET_ROUTES", '[{"path": "/v1/messages", "format": "anthropic.messages"}]')

    out = keys("create").out

    assert "http://localhost:8000/v1/messages" in out
    assert "claude" in out
    assert curl("k", "http://x/", "") == ["  curl http://x/ \\", '    -H "Authorization: Bearer k"']


# -- limits of its own ------------------------------------------------------------------------------------------------


@pytest.fixture
def planned(monkeypatch):
    """
    A plan to have other limits than.
    """
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"free": ["60 requests/minute", "$5/month"]}')
    monkeypatch.setenv("TOKENBUDGET_TIMEZONE", "Europe/Zurich")


def test_a_key_is_made_with_limits_of_its_own(keys, planned):
    """`--limit` takes a limit string or the JSON of a limit's dict, several times."""
    made = keys("create", "--limit", "100 requests/minute", "--limit", '{"limit": "$9/month", "anchor": 15}', "--json")

    assert made.json["limits"] == ["100 requests/minute", {"limit": "$9/month", "anchor": 15}]
    assert keys("list", "--json").json["keys"][0]["limits"] == made.json["limits"]


def test_limits_are_added_shown_and_cleared(keys, planned):
    """An increase is said with its end and what it replaces; without a limit the command shows; `--clear` takes all."""
    kid = keys("create", "--json").json["kid"]
    assert keys("limit", kid).out == f"Key {kid} has no limits of its own.\n"

    keys("limit", kid, "--limit", "100 requests/minute")
    shown = keys("limit", kid, "--limit", "1000 requests/minute", "--until", "2090-12-24").out
    assert "At most 1k requests in any minute, for each key, until 2090-12-23 23:00 UTC ('requests-minute')." in shown
    assert "In the place of: 100 requests/minute, 60 requests/minute." in shown
    assert "The app knows within 10 s." in shown
    assert keys("limit", kid).out == shown

    assert keys("limit", kid, "--clear", "--limit", "7/hour", "--json").json["limits"] == ["7/hour"]
    assert keys("limit", kid, "--clear", "--json").json["limits"] == []


def test_limits_of_a_key_may_end_after_a_duration(keys, planned):
    """`--until` takes a duration from now, for every limit of the command."""
    kid = keys("create", "--json").json["kid"]
    limits = keys(
        "limit", kid, "--limit", "9/minute", "--limit", '{"limit": "$9/month"}', "--until", "30 days", "--json"
    )

    ends = [datetime.fromisoformat(limit["until"]).timestamp() - time.time() for limit in limits.json["limits"]]
    assert len(ends) == 2
    assert all(30 * 86_400 - 60 < end <= 30 * 86_400 for end in ends)


def test_limits_are_shown_though_the_plan_is_gone(keys, planned, monkeypatch):
    """An operator can look at, and mend, a key whose plan is not in the settings any more."""
    kid = keys("create", "--plan", "free", "--limit", "9/minute", "--json").json["kid"]
    monkeypatch.setenv("TOKENBUDGET_PLANS", '{"a": [], "b": []}')

    assert "At most 9 requests in any minute" in keys("limit", kid).out


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("--limit", "9 tokes/minute"), "at `limits[0]`: unknown unit 'tokes'; did you mean 'tokens'?"),
        (("--limit", "9/minute per global"), "counts for everybody together"),
        (("--limit", "{9/minute"), "--limit: this is no JSON"),
        (("--limit", '{"limitt": "9/minute"}'), "did you mean 'limit'?"),
        (("--limit", "9/minute", "--until", "2020-01-01"), "--until: '2020-01-01' is past."),
        (("--limit", "9/minute", "--until", "soon"), "--until: 'soon' is neither a date"),
        (("--until", "2090-01-01"), "give one"),
    ],
)
def test_wrong_limits_change_nothing(keys, planned, argv, complaint):
    """The command ends with 2 and says what was wrong; the key has the limits it had."""
    kid = keys("create", "--limit", "5/minute", "--json").json["kid"]

    ran = keys("limit", kid, *argv)

    assert ran.code == 2
    assert complaint in ran.err
    assert keys("limit", kid, "--json").json["limits"] == ["5/minute"]
