"""A month of an account: money in, usage, an invoice."""

from datetime import UTC, datetime

from tokenbudget_mw.database import grants, ledger, periods
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.settings import Settings
from tokenbudget_mw.units import pico_from_usd
from tokenbudget_mw.wiring import open_database

engine = open_database(Settings.from_mapping({"database": "sqlite:///books.db"}))
metadata.create_all(engine)  # an app's tables come from `tokenbudget-mw migrate`

# money in, each time once by a key of yours
ledger.topup(engine, "tenant:acme", pico_from_usd("25"), key="pay_4711")
ends = datetime(2999, 1, 1, tzinfo=UTC).timestamp()
grants.grant(engine, "tenant:acme", pico_from_usd("5"), key="welcome:acme", expires_at=ends)
ledger.reverse(engine, "topup", key="pay_4711", note="of another customer")
grants.expire(engine)  # from cron: what has ended goes back

# what is owed for a month
may, june = datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)
included = pico_from_usd("20")
invoice = periods.draft(engine, "tenant:acme", may, june, included_pico=included)
# and, once it is over, for good
if june < datetime.now(UTC):
    invoice = periods.close(engine, "tenant:acme", may, june, included_pico=included)
# the end

engine.dispose()
