"""
The tester behind the fixture `tokenbudget`, around a Django project.
"""

from __future__ import annotations

import django_rig
from django.test import Client

from tokenbudget_mw.testing.budget import BudgetTester
from tokenbudget_mw.values import Subject
from tokenbudget_mw_django import conf

ANN = Subject(key="ann")


def test_django_project_takes_the_core_for_a_block() -> None:
    """Inside `using`, the project's requests meet the tester's limits; afterwards those of its settings."""
    settings = {**django_rig.TOKENBUDGET, "identify": "api_key", "plans": {"one": ["2 requests/minute"]}}
    tester, client = BudgetTester(settings), Client(raise_request_exception=False)
    before = conf.core()

    with conf.using(tester.core):
        assert conf.core() is tester.core
        tester.set_usage(ANN, requests=2)
        refused = client.post("/plain/missing", headers=tester.headers(ANN))
        tester.assert_refused(refused, limit="requests-minute", status=429)

    assert conf.core() is before
    assert [row.status for row in tester.rows()] == [429]
    tester.close()
