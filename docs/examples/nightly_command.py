"""A management command that is charged: management/commands/nightly.py"""

# the command
from typing import Any

from django.core.management.base import BaseCommand

from tokenbudget_mw import Subject, current
from tokenbudget_mw.tasks import task
from tokenbudget_mw_django.conf import core


class Command(BaseCommand):
    def handle(self, *args: Any, **options: Any) -> None:
        with task(core(), Subject(key="nightly", tenant="acme"), name="nightly"):
            summarize_the_day()


def summarize_the_day() -> None:
    current().charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
