"""Limit strings, each with what it means."""

# the strings
LIMITS = {
    "60/minute": "60 requests in any minute",
    "60 requests/minute": "the same",
    "40k tokens/minute": "40,000 tokens, input and output together",
    "1M input tokens/day": "a million input tokens in any 24 hours",
    "200k output tokens/10 minutes": "200,000 output tokens in any 10 minutes",
    "2M tokens/minute per model": "2 million tokens a minute, of each model",
    "$5/month": "5 dollars in a month of the calendar",
    "$10k/month per tenant": "10,000 dollars a month for all keys of a tenant together",
    "$20/calendar day per team": "20 dollars from midnight to midnight",
    "4 concurrent": "four calls in flight",
    "50 concurrent per tenant": "fifty, for all keys of a tenant together",
}
