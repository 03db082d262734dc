"""Looking at a subject's limits, and correcting them."""

from tokenbudget_mw.values import Subject
from tokenbudget_mw.wiring import wire

core = wire({"limits": ["1M tokens/day per tenant"], "identify": "ip", "database": "sqlite://"})
subject = Subject(key="k1", tenant="acme")

# the calls
operators = core.operators()
lines = operators.explain(subject, model="gpt-4o").limits
operators.credit(subject, "tokens-day-tenant", 20_000)
operators.reset(subject, "tokens-day-tenant")
# the end

core.close()
