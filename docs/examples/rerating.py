"""A price that was missing, added and applied to the rows that had none."""

from datetime import UTC, datetime, timedelta

from tokenbudget_mw.charging import charge
from tokenbudget_mw.database.rerating import Selection, rerate
from tokenbudget_mw.database.tables import metadata
from tokenbudget_mw.database.tariffs import TariffStore
from tokenbudget_mw.values import Price, Subject
from tokenbudget_mw.wiring import open_database, open_tariffs, wire

core = wire({"identify": "ip", "database": "sqlite:///books.db", "spool": "memory", "unknown_price": "flag"})
engine = open_database(core.settings)
metadata.create_all(engine)  # an app's tables come from `tokenbudget-mw migrate`
charge(core, Subject(key="k1"), {"usage": {"prompt_tokens": 1000, "completion_tokens": 100}}, model="new-model")
core.flush()
today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

# the price, in pico-dollars per token, and the rows that had none
store = TariffStore(engine)
price = store.add(Price("", "new-model", input=2_500_000, output=10_000_000, valid_from=today.timestamp()))
selection = Selection(today, today + timedelta(days=1), unpriced=True)
report = rerate(engine, open_tariffs(core.settings, engine), selection, apply=True, note="price list of May")
# the end

core.close()
engine.dispose()
