"""Say no in the client's language, let a browser read it, and tell limits as the providers do."""

# the settings
TOKENBUDGET = {
    "routes": [{"path": "/v1/chat/completions", "format": "openai.chat"}],
    "plans": {"free": ["60 requests/minute", "40k tokens/minute", "$5/month"]},
    "messages": {
        "de": {
            "limit": "Zu viele Anfragen. In {retry_after} Sekunden geht es weiter.",
            "money": "Das Guthaben dieses Monats ist verbraucht.",
        },
        "*": {"money": "This month's budget is spent. Ask for more at https://example.com/billing. ({message})"},
    },
    "limit_headers": ["ietf", "auto"],
    "cors_origins": ["https://app.example.com"],
}
