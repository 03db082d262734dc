"""
Charges what the official ``openai`` and ``anthropic`` clients use to whoever asked for it.

    client = instrument(openai.OpenAI())          # inside a request: its subject pays

    with tags(feature="search"):
        client.chat.completions.create(...)

    instrument(openai.OpenAI(), core=wire(TOKENBUDGET), subject=Subject(project="nightly"))     # in a script
"""

from __future__ import annotations

from tokenbudget_mw.charging import tags
from tokenbudget_mw_clients.instrumenting import instrument

__all__ = ["instrument", "tags"]
