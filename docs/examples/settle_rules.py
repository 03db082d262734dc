"""Charge the prompt of calls that fail, and everything that was held of a client that goes away."""

# the settings
TOKENBUDGET = {
    "routes": [
        {
            "path": "/v1/chat/completions",
            "format": "openai.chat",
            "settle": {"status_5xx": "input", "timeout": "input", "client_gone": "reserved"},
        },
    ],
    "plans": {"free": ["40k tokens/minute"]},
}
