"""What colorizer files say of themselves."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinochrome_proto.errors import BadColorizer
from kinochrome_proto.manifest import MAX_TEXT, Manifest

SIMPLE = Manifest(
    family="pix2pix",
    working_size=160,
    size_multiple=32,
    chroma_stride=4,
    chroma_encoding="ycbcr-bt601-full",
    licence="Apache-2.0",
)

LINES = st.text().filter(lambda text: text.isprintable() and len(text) <= MAX_TEXT)


@given(LINES, st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False)))
def test_what_is_written_is_read_back(licence: str, recipe: dict[str, int | str | float]) -> None:
    manifest = dataclasses.replace(SIMPLE, licence=licence, recipe=recipe)
    assert Manifest.from_metadata(manifest.to_metadata(), "file") == manifest


def test_entries_of_others_are_left_alone() -> None:
    assert Manifest.from_metadata(SIMPLE.to_metadata() | {"author": "somebody"}, "file") == SIMPLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kinochrome.format_version": None}, "is an ONNX model but no colorizer"),
        ({"kinochrome.format_version": "3"}, "has format version 3, this program reads 2: export it again"),
        ({"kinochrome.format_version": '"2"'}, "has format version '2', this program reads 2"),
        ({"kinochrome.working_size": None}, "lacks working_size"),
        ({"kinochrome.working_size": "{"}, "its metadata is damaged"),
        ({"kinochrome.working_size": "-5"}, "working_size is -5, not a number of 1 to"),
        ({"kinochrome.working_size": "9" * 5000}, "its metadata is damaged"),
        ({"kinochrome.size_multiple": '"many"'}, "size_multiple is 'many', not a whole number"),
        ({"kinochrome.size_multiple": "true"}, "size_multiple is True, not a whole number"),
        ({"kinochrome.size_multiple": "30"}, "size_multiple, 30, is no multiple of chroma_stride, 4"),
        ({"kinochrome.noise_length": "-1"}, "noise_length is -1, not a number of 0 to"),
        ({"kinochrome.family": "7"}, "family is 7, not a text"),
        ({"kinochrome.licence": None, "kinochrome.family": None}, "lacks family, licence in its metadata"),
        ({"kinochrome.licence": '"a\\nb"'}, r"licence is 'a\\nb', not a line"),
        ({"kinochrome.licence": f'"{"x" * 201}"'}, "not a line of at most 200 characters"),
        ({"kinochrome.recipe": "[]"}, r"recipe is \[\], not a table"),
        ({"kinochrome.recipe": "[" * 100_000}, "its metadata is damaged"),
        ({"kinochrome.recipe": '{"a":' * 30 + "1" + "}" * 30}, "its metadata is damaged"),
        ({"kinochrome.chroma_encoding": '"lab"'}, "chroma_encoding is 'lab', and this program knows ycbcr"),
        ({"kinochrome.precision": '"fp8"'}, "precision is 'fp8', and this program knows fp32, fp16, int8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(change: dict[str, str | None], words: str) -> None:
    entries = {key: value for key, value in (SIMPLE.to_metadata() | change).items() if value is not None}
    with pytest.raises(BadColorizer, match=words) as caught:
        Manifest.from_metadata(entries, "old.onnx")
    assert str(caught.value).startswith("old.onnx") and "\n" not in str(caught.value) and len(str(caught.value)) < 400
