"""Limits with more to say than a string does."""

TOKENBUDGET = {
    "timezone": "Europe/Zurich",
    "plans": {
        "pro": [
            {"limit": "$500/month", "anchor": 15},  # from the 15th, at midnight in Zurich
            {"limit": "$20/calendar week", "anchor": "friday"},
            {"limit": "$5k/year", "anchor": "04-06"},  # a fiscal year, from April 6th
            "600 requests/minute",
            {"limit": "1000 requests/minute", "until": "2026-12-24"},  # then 600 again
        ],
    },
    "overrides": {
        "tenant:acme": ["$2000/month per tenant"],
        "user:alice": ["1200 requests/minute per key"],
    },
}
