"""
Our tables live in a host's database without getting in the way of its own migrations.
"""

from __future__ import annotations

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import inspect, text

import tokenbudget_mw_alembic
from tokenbudget_mw.database import tables
from tokenbudget_mw.database.engine import open_engine
from tokenbudget_mw.database.writer import DatabaseSink
from tokenbudget_mw.values import UsageRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy import Engine

    Django = Callable[..., subprocess.CompletedProcess[str]]

ENV = """
import sqlalchemy as sa
from alembic import context
import tokenbudget_mw_alembic

metadata = sa.MetaData()
sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, {hook})
    with context.begin_transaction():
        context.run_migrations()
"""
MAKO = """
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
from alembic import op
import sqlalchemy as sa
def upgrade():
    ${upgrades}
"""
TOGETHER = """
import sqlalchemy as sa
from alembic import context, op
import tokenbudget_mw_alembic

engine = context.config.attributes["engine"]
if {in_env}:
    tokenbudget_mw_alembic.upgrade(context.config.attributes["ours"])
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
STEP = """
revision, down_revision = "one", None
from alembic import context, op
import sqlalchemy as sa
import tokenbudget_mw_alembic

def upgrade():
    if not {in_env}:
        tokenbudget_mw_alembic.upgrade(context.config.attributes["ours"])
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
"""
HOOKS = {
    "none": "",
    "include_name": "include_name=tokenbudget_mw_alembic.include_name()",
    "include_object": "include_object=tokenbudget_mw_alembic.include_object()",
}


def host(engine: Engine, folder: Path, hook: str) -> Config:
    """
    Make an Alembic environment of a host that has one table of its own.
    """
    (folder / "versions").mkdir()
    (folder / "env.py").write_text(ENV.format(hook=HOOKS[hook]))
    (folder / "script.py.mako").write_text(MAKO)
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes["engine"] = engine
    return config


def generate(config: Config, folder: Path, name: str) -> str:
    """
    Let Alembic generate the host's next revision, and return its text.
    """
    command.revision(config, name, autogenerate=True, rev_id=name)
    return (folder / "versions" / f"{name}_{name}.py").read_text()


@pytest.mark.parametrize("hook", ["include_name", "include_object"])
def test_a_hosts_autogenerate_leaves_our_tables_alone(engine: Engine, tmp_path: Path, hook: str) -> None:
    """
    With either hook the host's next revision is empty, and both chains have run side by side.
    """
    tokenbudget_mw_alembic.upgrade(engine)

    config = host(engine, tmp_path, hook)
    generate(config, tmp_path, "one")
    command.upgrade(config, "head")
    second = generate(config, tmp_path, "two")

    assert "op." not in second.replace("import op", "")
    assert {"orders", "alembic_version", *tables.metadata.tables} <= set(inspect(engine).get_table_names())


def test_without_the_hook_it_would_drop_them(engine: Engine, tmp_path: Path) -> None:
    """
    What the hook prevents: Alembic takes our tables for the host's left-overs.
    """
    tokenbudget_mw_alembic.upgrade(engine)

    revision = generate(host(engine, tmp_path, "none"), tmp_path, "one")

    for name in [*tables.metadata.tables, "tokenbudget_alembic_version"]:
        assert f"op.drop_table('{name}')" in revision


@pytest.mark.parametrize("in_env", [True, False], ids=["env", "migration"])
def test_a_host_may_upgrade_ours_amid_its_own(tmp_path: Path, in_env: bool) -> None:
    """
    One command for both chains: the host's goes on where it was, with its own names of Alembic's.
    """
    engine, ours = (open_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("host", "ours"))
    config = host(engine, tmp_path, "none")
    config.attributes["ours"] = ours
    (tmp_path / "env.py").write_text(TOGETHER.format(in_env=in_env))
    (tmp_path / "versions" / "one.py").write_text(STEP.format(in_env=in_env))

    command.upgrade(config, "head")

    found = inspect(engine).get_table_names(), tokenbudget_mw_alembic.current(ours)
    for opened in (engine, ours):
        opened.dispose()
    assert found == (["alembic_version", "orders"], tokenbudget_mw_alembic.head())


def test_threads_upgrade_databases_of_their_own(tmp_path: Path) -> None:
    """
    Alembic keeps what it runs in its modules: a thread must not meet the connection of another one there.
    """
    engines = [open_engine(f"sqlite:///{tmp_path}/{number}.db") for number in range(4)]
    with ThreadPoolExecutor(len(engines)) as threads:
        list(threads.map(tokenbudget_mw_alembic.upgrade, engines))

    found = {tokenbudget_mw_alembic.current(engine) for engine in engines}
    for engine in engines:
        engine.dispose()
    assert found == {tokenbudget_mw_alembic.head()}


def test_the_hooks_ask_the_host_about_everything_else() -> None:
    """
    A hook that the host has already keeps its say.
    """
    by_name = tokenbudget_mw_alembic.include_name(lambda name, _type, _parents: name != "legacy")
    by_object = tokenbudget_mw_alembic.include_object(lambda _item, name, _type, _reflected, _other: name != "legacy")

    names = ["tokenbudget_usage", "legacy", "orders"]
    assert [by_name(name, "table", {}) for name in names] == [False, False, True]
    assert [by_object(None, name, "table", True, None) for name in names] == [False, False, True]
    assert by_name("tokenbudget_column", "column", {})


def test_a_missing_alembic_names_the_extra() -> None:
    """
    Without Alembic, the error is the pip command.
    """
    program = "import sys; sys.modules['alembic'] = None; import tokenbudget_mw_alembic"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)

    assert "MissingExtraError: migrations need 'alembic': pip install 'tokenbudget-mw[alembic]'" in done.stderr


def test_django_models_match_its_migrations(django: Django) -> None:
    """
    Nothing is left for ``makemigrations`` to do, and the system checks are silent.
    """
    migrations = django("makemigrations", "--check", "--dry-run")
    checks = django("check", "--fail-level=WARNING")

    assert (migrations.returncode, migrations.stdout.strip()) == (0, "No changes detected")
    assert (checks.returncode, checks.stderr) == (0, "")


READ = """
from tokenbudget_mw_django.models import Balance, Key, LedgerEntry, Usage
row = Usage.objects.get(created_at__gte="2025-10-09T08:53:20Z")
print(row.created_at.isoformat(), row.is_stream, row.cost_pico, row.tags)
entry, balance = LedgerEntry.objects.get(), Balance.objects.get(balance_pico__lt=0)
print(repr(entry.amount_pico), repr(balance.balance_pico), balance.updated_at == entry.created_at)
balance.save()
print(Balance.objects.get().updated_at == entry.created_at, Usage.objects.filter(created_at__lt=row.created_at).count())
"""


@pytest.mark.parametrize("use_tz", ["0", "1"])
def test_django_reads_what_the_sink_wrote(engine: Engine, django: Django, use_tz: str) -> None:
    """
    Moments are aware and in UTC, money is whole, whatever time zone the host has and whether it uses any.
    """
    assert django("migrate", "--verbosity=0").returncode == 0
    DatabaseSink(engine).write(
        [
            UsageRecord(
                id="r1",
                instance_id="i1",
                sequence=1,
                created_at_us=1_760_000_000_123_457,
                method="POST",
                path="/",
                account="tenant:acme",
                cost_pico=2**62,
                is_stream=True,
                tags={"a": "ß"},
            )
        ]
    )

    done = django(code=READ, HOST_USE_TZ=use_tz)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f'2025-10-09T08:53:20.123457+00:00 True {2**62} {{"a":"ß"}}',
        f"{2**62} -{2**62} True",
        "True 0",
    ]


ASK = """
from datetime import UTC, timedelta
from django.db.models import Count, F, Max, Subquery
from django.db.models.functions import TruncDay
from tokenbudget_mw_django.models import LedgerEntry, Usage
last = Usage.objects.order_by("-created_at").values("created_at")[:1]
moment = Usage.objects.get().created_at
print(Usage.objects.annotate(last=Subquery(last)).get().last == moment)
same = Usage.objects.filter(pk="r1").values("created_at")
print(Usage.objects.filter(created_at=Subquery(last)).count(), Usage.objects.filter(created_at__in=same).count())
print(Usage.objects.aggregate(last=Max("created_at"))["last"] == moment)
print(LedgerEntry.objects.values("created_at").union(Usage.objects.values("created_at"))[0]["created_at"].isoformat())
print(Usage.objects.annotate(none=F("created_at") - F("created_at")).get().none)
"""

DAYS = """
days = Usage.objects.annotate(day=TruncDay("created_at", tzinfo=UTC)).values("day").annotate(n=Count("pk"))
print([(moment - timedelta(days=1) < row["day"] <= moment, row["n"]) for row in days])
"""


@pytest.mark.parametrize(("use_tz", "zone"), [("0", ""), ("1", ""), ("1", "Asia/Tokyo")])
def test_moments_are_the_same_wherever_a_query_uses_them(
    engine: Engine, django: Django, use_tz: str, zone: str
) -> None:
    """
    In subqueries, unions, aggregates, differences and days, whatever the host's time zone is, whether it uses any, and what zone it says
    the moments of other tables are in.
    """
    assert django("migrate", "--verbosity=0").returncode == 0
    record = UsageRecord(
        id="r1",
        instance_id="i",
        sequence=1,
        created_at_us=1_760_000_000_123_457,
        method="POST",
        path="/",
        account="tenant:acme",
    )
    DatabaseSink(engine).write([record])

    # what day a moment is on, Django asks the database by the zone that DATABASES names
    done = django(code=ASK if zone else ASK + DAYS, HOST_USE_TZ=use_tz, HOST_DATABASE_ZONE=zone)

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "True",
        "1 1",
        "True",
        "2025-10-09T08:53:20.123457+00:00",
        "0:00:00",
        *([] if zone else ["[(True, 1)]"]),
    ]


ADMIN = """
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.test import RequestFactory
from tokenbudget_mw_django.models import Balance, Key, LedgerEntry, RollupDay, RollupHour, RollupSubject, Usage
request = RequestFactory().get("/")
request.user = AnonymousUser()
for model in (Balance, Key, LedgerEntry, RollupDay, RollupHour, RollupSubject, Usage):
    page = admin.site.get_model_admin(model)
    print(page.has_add_permission(request), page.has_change_permission(request), page.has_delete_permission(request))
keys = admin.site.get_model_admin(Key)
print(sorted(keys.get_actions(request)))
request.user.has_perm = lambda name, obj=None: name == "tokenbudget_mw_django.change_key"
print(sorted(keys.get_actions(request)))
said = []
keys.message_user = lambda request, message, level: said.append(message)
for action in (keys.suspend, keys.resume, keys.revoke, keys.resume):
    action(request, Key.objects.all())
    print(Key.objects.values_list("status", flat=True).get(), Key.objects.get().revoked_at is not None)
print(said)
print("digest" in keys.get_fields(request, Key.objects.get()))
"""


def test_the_admin_shows_and_switches_keys_and_edits_nothing(engine: Engine, django: Django) -> None:
    """
    Nothing can be added, changed or deleted; keys are switched by those who may change them.
    """
    from tokenbudget_mw.database.keys import KeyStore

    assert django("migrate", "--verbosity=0").returncode == 0
    KeyStore(engine, "pepper").create(name="ci")

    done = django(code=ADMIN, HOST_ADMIN="1")

    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *["False False False"] * 7,
        "[]",
        "['resume', 'revoke', 'suspend']",
        "suspended False",
        "active False",
        "revoked True",
        "revoked True",
        "['1 keys are suspended now.', '1 keys are active now.', '1 keys are revoked now.', '0 keys are active now.']",
        "False",
    ]


def test_the_spool_drains_into_freshly_migrated_tables(engine: Engine) -> None:
    """
    A sink that met no tables writes into them as soon as the host has migrated.
    """
    record = UsageRecord(id="r1", instance_id="i1", sequence=1, created_at_us=0, method="GET", path="/")
    sink = DatabaseSink(engine)
    with pytest.raises(Exception, match="tokenbudget_usage"):
        sink.write([record])

    tokenbudget_mw_alembic.upgrade(engine)

    assert sink.write([record]) == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT COUNT(*) FROM tokenbudget_usage")) == 1
