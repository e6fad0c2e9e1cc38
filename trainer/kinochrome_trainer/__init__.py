"""Builds and trains generators that colour gray pictures.

Where to start: `recipe` (what a training run is made of), `loop.train` (the run itself),
`systems` (one class per model family), `networks`, `losses`, `film_stock` (how colour becomes
believable old gray). Nothing here knows of films being served, of ONNX or of gRPC.
"""
