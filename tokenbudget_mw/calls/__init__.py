"""
A call: a metered request from its facts to its records.

`call` holds the whole; the other files are its steps and its endings: reserving, counting again, marking, settling,
recording, refusing. Nothing here knows a web protocol.
"""
