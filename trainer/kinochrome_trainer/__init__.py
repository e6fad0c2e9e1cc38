"""Builds and trains generators that colour gray pictures.

Where to start: `recipe` (what a training run is made of), `loop.train` (the run itself), `system` with `pix2pix` and
`cyclegan` (how networks are trained together), `networks`, `discriminators`, `losses`, `film_stock` (how colour becomes
believable old gray), `evaluation`. Nothing here knows of films being served, of ONNX or of gRPC.
"""
