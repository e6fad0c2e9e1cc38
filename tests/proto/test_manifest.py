"""What colorizer files say of themselves."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import Manifest

SIMPLE = Manifest(
    family="pix2pix",
    working_size=160,
    size_multiple=32,
    chroma_stride=4,
    chroma_encoding="ycbcr-bt601-full",
    licence="Apache-2.0",
)


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False)))
def test_what_is_written_is_read_back(licence: str, recipe: dict[str, int | str | float]) -> None:
    manifest = dataclasses.replace(SIMPLE, licence=licence, recipe=recipe)
    assert Manifest.from_metadata(manifest.to_metadata(), "file") == manifest


def test_entries_of_others_are_left_alone() -> None:
    assert Manifest.from_metadata(SIMPLE.to_metadata() | {"author": "somebody"}, "file") == SIMPLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kinochrome.format_version": None}, "is no colorizer"),
        ({"kinochrome.format_version": "2"}, "has format version 2, this program reads 1"),
        ({"kinochrome.working_size": None}, "lacks working_size"),
        ({"kinochrome.working_size": "{"}, "its metadata is damaged"),
        ({"kinochrome.working_size": "-5"}, "working_size is -5, not a number of 1 to"),
        ({"kinochrome.size_multiple": '"many"'}, "size_multiple is 'many'"),
        ({"kinochrome.chroma_encoding": '"lab"'}, "gives chroma as 'lab'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(change: dict[str, str | None], words: str) -> None:
    entries = {key: value for key, value in (SIMPLE.to_metadata() | change).items() if value is not None}
    with pytest.raises(BadColorizer, match=words):
        Manifest.from_metadata(entries, "old.onnx")
