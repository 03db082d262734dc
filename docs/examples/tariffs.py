"""Prices of your own."""

# the settings
TOKENBUDGET = {
    "identify": "ip",
    "tariffs": [
        {"model": "my-fine-tune", "input": "3.75", "output": "15", "cache_read": "1.875"},  # dollars per 1M tokens
        {"model": "gpt-4o", "input": "2.00", "output": "8.00", "valid_from": "2026-01-01"},  # what you negotiated
        {"model": "gpt-4o", "input": "1.00", "output": "4.00", "completion_window": "24h"},  # in batches
        {"model": "local-llama", "input": 0, "output": 0},  # free, because you say so
    ],
    "unknown_price": "ceiling",
    "ceiling": {"input": "150", "output": "600"},
}
