"""
What goes on beside the calls: keeps reservations alive, starts counters from the books, bars keys and accounts, and says
how the process does.
"""
