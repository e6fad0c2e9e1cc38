"""Files that get their name only when they are whole."""

from pathlib import Path

import pytest

from kinochrome_client.output import NewFile
from kinochrome_proto.errors import OutputInTheWay


def test_a_committed_file_has_its_name_and_nothing_else_is_there(tmp_path: Path) -> None:
    with NewFile(tmp_path / "film.mp4", overwrite=False) as new:
        new.file.write(b"whole")
        assert not (tmp_path / "film.mp4").exists()
        new.commit()
    assert (tmp_path / "film.mp4").read_bytes() == b"whole"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]
    assert (tmp_path / "film.mp4").stat().st_mode & 0o600 == 0o600


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_nothing_and_an_older_file_as_it_was(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"older")
    with pytest.raises(error), NewFile(tmp_path / "film.mp4", overwrite=True) as new:
        new.file.write(b"half")
        raise error
    assert (tmp_path / "film.mp4").read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"older")
    with pytest.raises(OutputInTheWay, match="exists: --overwrite replaces it"):
        NewFile(tmp_path / "film.mp4", overwrite=False)
    with NewFile(tmp_path / "film.mp4", overwrite=True) as new:
        new.file.write(b"newer")
        new.commit()
    assert (tmp_path / "film.mp4").read_bytes() == b"newer"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputInTheWay), NewFile(tmp_path / "film.mp4", overwrite=False) as new:
        (tmp_path / "film.mp4").write_bytes(b"another's")
        new.commit()
    assert (tmp_path / "film.mp4").read_bytes() == b"another's"
    assert [file.name for file in tmp_path.iterdir()] == ["film.mp4"]


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputInTheWay, match=r"nowhere does not exist: make it, or choose another -o"):
        NewFile(tmp_path / "nowhere" / "film.mp4", overwrite=False)
