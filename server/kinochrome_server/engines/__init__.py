"""Engines run colorizers on batches of thumbnails, all behind one interface.

Where to start: `interface.Engine` says what an engine is, `choice.choose` gives one.
"""
