"""
What ``tokenbudget-mw replay`` is made of: traces, prompts, a virtual clock, the drive, its own history.
"""
