"""What becomes of the keys of a tenant that is deleted, or does not pay."""

import os

from tokenbudget_mw.settings import Settings
from tokenbudget_mw.wiring import open_database, open_keys

settings = Settings.from_env(os.environ)

# the calls
keys = open_keys(settings, open_database(settings))


def tenant_deleted(tenant: str) -> None:
    """Refuse all of its keys for ever."""
    keys.revoke_all(tenant=tenant)


def invoice_overdue(tenant: str) -> None:
    """Refuse them until they are resumed by `resume_all`."""
    keys.suspend_all(tenant=tenant)
