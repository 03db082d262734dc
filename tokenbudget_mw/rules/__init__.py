"""
The rules: values in, values out. No clock, lock, logger, thread or await in this room.
"""
