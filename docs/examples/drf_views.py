"""Views of the Django REST framework with limits of their own."""

# the views
from typing import Any

from rest_framework.response import Response
from rest_framework.views import APIView

from tokenbudget_mw_django import current
from tokenbudget_mw_django.throttling import TokenBudgetThrottle


class Burst(TokenBudgetThrottle):
    limits = ("2 requests/minute", "20 requests/hour")


class Summaries(APIView):
    throttle_classes = (Burst,)

    def post(self, request: Any) -> Response:
        current().charge({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 12, "completion_tokens": 5}})
        return Response({"summary": request.data["text"][:20]})
