"""A FastAPI app whose OpenAPI tells of keys and refusals."""

# the app
from fastapi import APIRouter, FastAPI

from tokenbudget_mw_fastapi import TokenBudget
from tokenbudget_mw_fastapi.openapi import RESPONSES, SECURITY

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=SECURITY)


@router.get("/models")
async def models() -> list[str]:
    return ["gpt-4o-mini"]


app = FastAPI()
app.include_router(router)
budget = TokenBudget(app, {"routes": [{"path": "/v1/*"}], "plans": {"free": ["60 requests/minute"]}})
