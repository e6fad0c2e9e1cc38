"""The error family is whole: each has a reason of its own, and is found by it."""

from kinochrome_proto import errors


def test_every_error_is_found_by_its_reason() -> None:
    family = errors.KinochromeError.__subclasses__()
    assert set(errors.BY_REASON.values()) == set(family)
    assert len({error.reason for error in family}) == len(family)
    assert all(error.__name__ in (errors.__doc__ or "") for error in family)
