"""Try limits without refusing anybody."""

# the settings
TOKENBUDGET = {
    "identify": "ip",
    "plans": {
        "free": [
            "60 requests/minute",  # enforced
            {"limit": "10k tokens/minute", "mode": "shadow"},  # decides, counts and records only
        ],
    },
}
