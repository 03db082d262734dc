"""A Django app with limits, in one file: python django_app.py migrate, then python django_app.py runserver"""

import json
import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpRequest, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY="only for this example",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ.get("DB", "db.sqlite3"),
            "OPTIONS": {"transaction_mode": "IMMEDIATE"},
        }
    },
    # -- the three that tokenbudget-mw needs
    INSTALLED_APPS=["tokenbudget_mw_django"],
    MIDDLEWARE=["tokenbudget_mw_django.TokenBudgetMiddleware"],
    TOKENBUDGET={
        "identify": "ip",
        "routes": [
            {"path": "/v1/chat/completions", "format": "openai.chat"},
            {"path": "/summaries"},
        ],
        "plans": {"free": ["3 requests/minute", "40k tokens/minute", "$5/month"]},
    },
)
django.setup()

from tokenbudget_mw_django import current, limit  # noqa: E402 - settings come first in a single file


def ask_model(messages: list[dict[str, str]]) -> dict[str, Any]:
    """Stand-in for a provider's SDK: returns what OpenAI's API would."""
    answer = {"role": "assistant", "content": f"You said: {messages[-1]['content']}"}
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    choice = {"index": 0, "message": answer, "finish_reason": "stop"}
    return {"object": "chat.completion", "model": "gpt-4o-mini", "choices": [choice], "usage": usage}


def chat(request: HttpRequest) -> JsonResponse:
    return JsonResponse(ask_model(json.loads(request.body)["messages"]))


async def summarize(request: HttpRequest) -> JsonResponse:
    response = ask_model([{"role": "user", "content": f"Summarize: {json.loads(request.body)['text']}"}])
    current().charge(response)
    return JsonResponse({"summary": response["choices"][0]["message"]["content"]})


@limit("2/minute")
def search(request: HttpRequest) -> JsonResponse:
    return JsonResponse([], safe=False)


urlpatterns = [path("v1/chat/completions", chat), path("summaries", summarize), path("search", search)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
