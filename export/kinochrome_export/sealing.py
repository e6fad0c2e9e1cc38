"""Writes colorizer files: an ONNX model and its manifest, sealed.

`python -m kinochrome_export.sealing FILE.onnx` brings a colorizer file of format version 1, which had no checksum, to
this version; its operators and weights stay bit for bit what they were.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from kinochrome_proto import colorizer_file
from kinochrome_proto.errors import BadColorizer, KinochromeError
from kinochrome_proto.manifest import FORMAT_VERSION, PREFIX, Manifest

from . import cpu, parity


def write(model: onnx.ModelProto, manifest: Manifest, file: Path) -> None:
    """Write a colorizer file; it appears when it is whole. What metadata the model had is replaced.

    Raises BadColorizer when a reader would refuse it, onnx.checker.ValidationError when it is no valid ONNX.
    """
    sealed = onnx.ModelProto()
    sealed.CopyFrom(model)
    _drop_notes(sealed)
    del sealed.metadata_props[:]
    onnx.helper.set_model_props(sealed, manifest.to_metadata())
    content = colorizer_file.seal(sealed.SerializeToString(deterministic=True))
    colorizer_file.check(content, str(file))
    onnx.checker.check_model(content, full_check=True)
    partial = file.with_name(f".{file.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def renew(file: Path) -> Manifest:
    """Seal a colorizer file of format version 1. What ONNX Runtime paints with it is recorded as its probe, for the
    network that it was exported from may be gone. Raises BadColorizer when it is none."""
    try:
        model = onnx.load_model_from_string(file.read_bytes())
    except Exception as error:  # protobuf's DecodeError, or what onnx makes of it
        raise BadColorizer(f"{file} is no ONNX model: {error}".partition("\n")[0]) from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get(f"{PREFIX}format_version") != "1":
        raise BadColorizer(f"{file} is no colorizer file of format version 1: there is nothing to renew")
    manifest = Manifest.from_metadata(metadata | {f"{PREFIX}format_version": json.dumps(FORMAT_VERSION)}, str(file))
    session = cpu.session(model.SerializeToString())
    pictures = parity.probe_pictures(manifest.size_multiple, manifest.noise_length)
    probe = parity.probe(np.asarray(session.run(None, pictures)[0]), f"onnxruntime {onnxruntime.__version__}")
    manifest = dataclasses.replace(manifest, parity={**manifest.parity, "probe": dataclasses.asdict(probe)})
    write(model, manifest, file)
    return manifest


def _drop_notes(model: onnx.ModelProto) -> None:
    """Drop what the exporter noted of each operator: stack traces and paths of the machine it ran on."""
    graph = model.graph
    noted: list[Any] = [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for item in noted:
        del item.metadata_props[:]
        item.ClearField("doc_string")
    model.ClearField("doc_string")


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(f"{name}: format version {renew(Path(name)).format_version}")
    except (KinochromeError, OSError) as error:
        sys.exit(f"sealing: {error}")
