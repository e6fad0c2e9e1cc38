"""Durable jobs: films on their way through the server, which outlive calls, clients and servers.

`board.Board` is where to start: all jobs, on the event loop. Around it, each on its own: `store` (the database),
`folders` (the spool), `uploads`, `downloads`, `runner` (a film being coloured, in a thread), `queue` (who is next),
`limits`.
"""
