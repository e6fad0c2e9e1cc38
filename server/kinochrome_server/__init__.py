"""Colours films: a pipeline that is a plain library, and a gRPC service that stands on it.

Where to start: `pipeline.colorize`. The way of a frame: `film` (demux, segments) → `worker` (decode, thumbnails,
`engines`, `chroma`, encode) → `muxer`. `service` puts the same pipeline on the wire. Nothing here knows PyTorch.
"""
