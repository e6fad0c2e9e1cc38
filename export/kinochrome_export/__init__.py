"""Turns a trained generator into a colorizer: one self-describing ONNX file, proven against PyTorch.

Where to start: `to_onnx.export`.
"""
