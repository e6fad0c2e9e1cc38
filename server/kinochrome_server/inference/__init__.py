"""One process for each device runs the colorizers of all workers, so that its batches fill across segments and films.

Where to start: `host.Inference` starts such processes and starts them again; `remote.RemoteEngine` is what a worker has
in an engine's place; `desk.Desk` is what such a process does. Thumbnails and chroma lie in memory that a worker shares
with the process (`memory`); tickets of a few bytes go over a socket (`tickets`).

A worker handles bytes from strangers. It says which slot of its own memory holds how many pictures of what size, and
nothing else: which colorizer is run, and on whose account, comes from whoever gives the worker its tasks.
"""
