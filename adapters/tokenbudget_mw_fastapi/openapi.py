"""
What the middleware asks for and may answer, for FastAPI's OpenAPI.

    app = FastAPI(responses=RESPONSES, dependencies=SECURITY)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenbudget_mw.errors import MissingExtraError
from tokenbudget_mw_fastapi.responses import RESPONSES

try:
    from fastapi import Depends
    from fastapi.security import APIKeyHeader, HTTPBearer
except ModuleNotFoundError as exc:
    message = "tokenbudget_mw_fastapi.openapi needs 'fastapi': pip install 'tokenbudget-mw[fastapi]'"
    raise MissingExtraError(message) from exc

__all__ = ["RESPONSES", "SECURITY"]

TEXT = "An API key of this service. Send one, in one place."

_bearer = HTTPBearer(auto_error=False, scheme_name="TokenBudgetKey", description=TEXT)
_header = APIKeyHeader(name="x-api-key", auto_error=False, scheme_name="TokenBudgetKeyHeader", description=TEXT)

SECURITY: Sequence[Any] = (Depends(_bearer), Depends(_header))
"""
Dependencies that declare the two places of an API key, either of which will do: for an app, a router or an endpoint. They let
everybody through, since the middleware has refused those without a key; so they may stand on endpoints that no route covers.
"""
