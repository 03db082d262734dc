"""Every setting that an app is likely to want."""

# the settings
TOKENBUDGET = {
    "backend": "redis://localhost:6379/0",
    "database": "postgresql+psycopg://localhost/app",
    "identify": "api_key",
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat"},
        {"path": "/v1/messages", "format": "anthropic.messages"},
        {"path": "/assistant/*"},
    ],
    "plans": {
        "free": ["60 requests/minute", "40k tokens/minute", "$5/month", "4 concurrent"],
        "pro": ["600 requests/minute", "2M tokens/minute per model", "$500/month"],
    },
    "default_plan": "free",
    "limits": ["$10k/month per tenant"],
    "timezone": "Europe/Berlin",
    "on_backend_error": "local",
    "unknown_price": "ceiling",
    "mode": "enforce",
}
