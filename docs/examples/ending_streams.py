"""End streams with their budget: in the format's own regular way, or with an error."""

# the settings
TOKENBUDGET = {
    "routes": [
        {"path": "/v1/chat/completions", "format": "openai.chat", "on_budget_end": "finish"},
        {"path": "/v1/messages", "format": "anthropic.messages", "on_budget_end": "error"},
    ],
    "plans": {"free": ["40k tokens/minute", "$5/month"]},
    "output_reserve": 1024,
}
