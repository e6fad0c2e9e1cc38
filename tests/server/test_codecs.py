"""Encoders: the same frames must give the same bytes."""

import os
import subprocess
import sys

import pytest

from kinochrome_server.codecs import CODECS

ENCODE = """
import hashlib
from fractions import Fraction
import numpy as np
from kinochrome_server.codecs import CODECS, Encoding
from kinochrome_server.film import Facts
from kinochrome_server.planes import Picture, assemble

size = (496, 240)
picture = Picture(*size, "yuv420p", 8, Fraction(1), 0, False, 6, 2, 2, False, False, "yuv420p", False)
encoding = Encoding(CODECS[{codec!r}], "yuv420p", Facts(picture, Fraction(1, 25), Fraction(25), 14, True))
encoder = encoding.open()
digest = hashlib.sha256()
chance = np.random.default_rng(3)
scene = np.kron(chance.integers(40, 200, (40, 80)), np.ones((8, 8))).astype(np.uint8)
chroma = np.full((120, 248), 140, np.uint8)
for index in range(14):
    luma = scene[index * 2 : index * 2 + 240, index * 3 : index * 3 + 496]
    frame = assemble(np.ascontiguousarray(luma), (chroma, chroma), "yuv420p")
    frame.pts, frame.time_base = index, Fraction(1, 25)
    for packet in encoder.encode(frame):
        digest.update(bytes(packet))
for packet in encoder.encode(None):
    digest.update(bytes(packet))
print(digest.hexdigest())
"""


@pytest.mark.parametrize("codec", CODECS)
def test_bytes_do_not_depend_on_what_lies_in_fresh_memory(codec: str) -> None:
    """x264's AVX-512 macroblock-tree code reads memory that nobody wrote, and its bytes differed from run to run."""
    results = set()
    for filling in (0, 85, 200):  # glibc fills fresh memory with this byte
        environment = os.environ | {
            "GLIBC_TUNABLES": f"glibc.malloc.perturb={filling}:glibc.malloc.mmap_threshold=4294967296"
        }
        done = subprocess.run(
            [sys.executable, "-c", ENCODE.format(codec=codec)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        results.add(done.stdout)
    assert len(results) == 1
