"""Other limits while the app runs."""

from fastapi import FastAPI

from tokenbudget_mw_fastapi import TokenBudget

app = FastAPI()
budget = TokenBudget(
    app,
    {
        "identify": "ip",
        "plans": {"free": ["60 requests/minute"]},
    },
)


# the change
def on_new_limits(plans: dict[str, list[str]]) -> None:
    budget.change_limits({"plans": plans})


# the end
