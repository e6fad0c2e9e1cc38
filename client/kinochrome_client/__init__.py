"""The `kinochrome` command, and the client of a server.

Where to start: `cli` (the verbs), `remote.colorize` (a film over the wire), `output.NewFile` (how a film gets its
name only once it is whole).
"""
