"""Durable jobs as their clients see them: a real server, films over loopback."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import grpc
import pytest

from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire
from tests import films
from tests.films import Kind
from tests.server import serving
from tests.server.job_calls import Calls, calling, coloured_here, pieces, refused

DONE, CANCELLED, UPLOADING = wire.JOB_STATE_DONE, wire.JOB_STATE_CANCELLED, wire.JOB_STATE_UPLOADING


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    with serving.running(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def calls(server: serving.Server) -> Iterator[Calls]:
    with calling(server.address) as calls:
        yield calls


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return films.make(tmp_path_factory.mktemp("film"), Kind("film.mkv", frames=60, gop=25))


@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_a_job_gives_the_very_bytes_of_a_local_run(
    server: serving.Server, calls: Calls, film: Path, container: str
) -> None:
    job_id = calls.sent(film.read_bytes(), wire.Settings(container=container))
    states = [job.state for job in calls.watch(job_id)]
    job = calls.get(job_id)
    assert states[-1] == job.state == DONE
    assert job.progress.frames == job.finished.frames == 60
    assert job.coloured == job.finished.size
    assert job.engine.startswith("cpu (")
    assert job.expires_s > job.created_s
    assert calls.fetched(job_id) == coloured_here(film, container)
    assert calls.fetched(job_id) == coloured_here(film, container), "a second time"
    calls.delete(job_id)
    assert not any(job_id in name for name in server.left())
    with refused() as why:
        calls.get(job_id)
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_JOB")
    calls.delete(job_id)  # no error


def test_the_film_itself_is_not_kept_once_it_is_coloured(server: serving.Server, calls: Calls, film: Path) -> None:
    job_id = calls.sent(film.read_bytes())
    assert calls.ended(job_id).state == DONE
    assert [name for name in server.left() if job_id in name] == [f"jobs/{job_id}", f"jobs/{job_id}/coloured"]
    calls.delete(job_id)


def test_uploads_are_carried_on_where_they_were_cut(calls: Calls, film: Path) -> None:
    data = film.read_bytes()
    job = calls.create()
    third = len(data) // 3
    assert calls.upload(job.id, data[:third], piece=1000) == third
    assert calls.get(job.id).uploaded == third
    with refused() as why:
        calls.upload(job.id, data, offset=third + 1)
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_OFFSET")
    with refused() as why:
        calls.upload(job.id, data, offset=0)
    assert why[0].reason == "WRONG_OFFSET"
    with refused() as why:
        calls.commit(job.id, data)
    assert why[0].reason == "WRONG_OFFSET" and str(third) in why[0].text
    assert calls.get(job.id).uploaded == third, "nothing of it is lost"
    assert calls.upload(job.id, data, offset=third) == len(data)
    calls.commit(job.id, data)
    calls.commit(job.id, data)  # a retry is harmless
    with refused() as why:
        calls.upload(job.id, data, offset=len(data) - 10)
    assert why[0].reason == "WRONG_OFFSET"
    assert calls.fetched(job.id) == coloured_here(film)
    calls.delete(job.id)


def test_a_damaged_piece_is_refused_and_nothing_of_it_kept(calls: Calls, film: Path) -> None:
    data = film.read_bytes()
    job = calls.create()
    calls.upload(job.id, data[:5000])
    bad = wire.UploadFilmRequest(job_id=job.id, offset=5000, data=data[5000:6000], crc32c=1)
    with refused() as why:
        list(calls.stub.UploadFilm(iter([bad])))
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED_ON_THE_WAY")
    assert calls.get(job.id).uploaded == 5000
    assert calls.upload(job.id, data, offset=5000) == len(data)
    calls.commit(job.id, data)
    assert calls.ended(job.id).state == DONE
    calls.delete(job.id)


def test_a_film_with_another_sha256_is_sent_anew_and_then_coloured(calls: Calls, film: Path) -> None:
    data = film.read_bytes()
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    job = calls.create()
    calls.upload(job.id, wrong)
    with refused() as why:
        calls.commit(job.id, data)
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.DATA_LOSS, "DAMAGED_ON_THE_WAY")
    assert calls.get(job.id).uploaded == 0
    calls.upload(job.id, data)
    calls.commit(job.id, data)
    assert calls.fetched(job.id) == coloured_here(film)
    calls.delete(job.id)


def test_creating_twice_with_one_request_id_gives_one_job(calls: Calls) -> None:
    settings = wire.Settings(container="mkv", crf=20)
    one, other = (calls.create(settings, request_id="the-same") for _ in range(2))
    assert one.id == other.id
    with refused() as why:
        calls.create(wire.Settings(container="mp4"), request_id="the-same")
    assert (why[0].code, why[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "request_id")
    calls.delete(one.id)
    again = calls.create(settings, request_id="the-same")
    assert again.id != one.id
    calls.delete(again.id)


def test_the_later_of_two_uploads_counts(calls: Calls, film: Path) -> None:
    data = film.read_bytes()
    job = calls.create()
    hold = threading.Event()

    def slowly() -> Iterator[wire.UploadFilmRequest]:
        yield from pieces(job.id, data[:3000], piece=3000)
        hold.wait(30)

    first = calls.stub.UploadFilm(slowly())
    assert next(iter(first)).uploaded == 3000
    assert calls.upload(job.id, data, offset=3000) == len(data)
    with refused() as why:
        list(first)
    assert why[0].reason == "CANCELLED"
    hold.set()
    calls.commit(job.id, data)
    assert calls.ended(job.id).state == DONE
    calls.delete(job.id)


def test_a_streamable_film_is_coloured_while_it_is_sent(calls: Calls, tmp_path: Path) -> None:
    data = films.make(tmp_path, Kind("film.mkv", frames=400, gop=25, options={"sc_threshold": "0"})).read_bytes()
    job = calls.create(wire.Settings(container="mkv"))
    most = len(data) * 3 // 4
    came = threading.Event()

    def requests() -> Iterator[wire.UploadFilmRequest]:
        yield from pieces(job.id, data[:most])
        assert came.wait(60), "no coloured byte came before the rest of the film was sent"
        yield from pieces(job.id, data, offset=most)

    started = time.monotonic()
    upload = threading.Thread(target=lambda: list(calls.stub.UploadFilm(requests())))
    upload.start()
    film = bytearray()
    calls.download(job.id, film, stop_at=1)
    assert calls.get(job.id).state == UPLOADING
    took = time.monotonic() - started
    came.set()
    upload.join(60)
    calls.commit(job.id, data)
    finished = calls.download(job.id, film)
    assert finished is not None and finished.sha256 == hashlib.sha256(film).digest() and finished.frames == 400
    assert took < 30
    calls.delete(job.id)


def test_downloads_begin_at_any_byte(calls: Calls, film: Path) -> None:
    job_id = calls.sent(film.read_bytes())
    whole = calls.fetched(job_id)
    for offset in (1, len(whole) // 2, len(whole) - 1, len(whole)):
        part = bytearray(whole[:offset])
        finished = calls.download(job_id, part)
        assert part == whole and finished is not None
    for offset in (-1, len(whole) + 1):
        with refused() as why:
            list(calls.stub.DownloadFilm(wire.DownloadFilmRequest(job_id=job_id, offset=offset)))
        assert (why[0].reason, why[0].field) == ("WRONG_OFFSET", "offset")
    calls.delete(job_id)


def test_what_was_fetched_too_early_is_put_right_at_the_end(calls: Calls, tmp_path: Path) -> None:
    """An MP4's header is written again when the film is complete: whoever has it already is sent it again."""
    film = films.make(tmp_path, Kind("film.mkv", frames=200, gop=25))
    job_id = calls.sent(film.read_bytes(), wire.Settings(container="mp4"))
    assert calls.fetched(job_id) == coloured_here(film, "mp4")
    calls.delete(job_id)


def test_cancelling_stops_the_work_within_a_second(server: serving.Server, calls: Calls, tmp_path: Path) -> None:
    data = films.make(tmp_path, Kind("film.mkv", frames=1200, gop=25, size=(320, 240))).read_bytes()
    job_id = calls.sent(data)
    for job in calls.watch(job_id):
        if job.progress.frames:
            break
    started = time.monotonic()
    assert calls.cancel(job_id).state == CANCELLED
    assert time.monotonic() - started < 1
    assert not any(job_id in name for name in server.left())
    frames = calls.get(job_id).progress.frames
    with refused() as why:
        calls.fetched(job_id)
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.CANCELLED, "CANCELLED")
    assert calls.cancel(job_id).state == CANCELLED
    assert calls.get(job_id).progress.frames == frames
    calls.delete(job_id)


def test_a_bad_film_fails_with_its_reason_and_leaves_only_that(server: serving.Server, calls: Calls) -> None:
    job_id = calls.sent(b"to be or not to be\n" * 1000)
    job = calls.ended(job_id)
    assert (job.state, job.failure.reason) == (wire.JOB_STATE_FAILED, "BAD_FILM")
    assert "is not a film" in job.failure.text
    assert not any(job_id in name for name in server.left())
    with refused() as why:
        calls.fetched(job_id)
    assert (why[0].code, why[0].reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_FILM")
    calls.delete(job_id)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "../../etc/passwd"}, "request_id"),
        ({"request_id": "a" * 65}, "request_id"),
        ({"priority": 11}, "priority"),
        ({"film_size": -1}, "film_size"),
        ({"settings": wire.Settings(crf=99)}, "settings.crf"),
        ({"settings": wire.Settings(codec="nope")}, "settings.codec"),
        ({"settings": wire.Settings(container="nope")}, "settings.container"),
        ({"settings": wire.Settings(strict=True, lenient=True)}, "settings.strict"),
        ({"settings": wire.Settings(look=wire.Look(saturation=9))}, "settings.look.saturation"),
        ({"settings": wire.Settings(colorizer="../default.onnx")}, "settings.colorizer"),
    ],
)
def test_a_bad_request_names_its_field(calls: Calls, fields: dict[str, object], field: str) -> None:
    before = len(calls.jobs().jobs)
    with refused() as why:
        calls.create(**fields)  # type: ignore[arg-type]
    assert why[0].field == field
    assert why[0].code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert "\n" not in why[0].text
    assert len(calls.jobs().jobs) == before


@pytest.mark.parametrize("job_id", ["", "nope", "../../../etc/passwd", "a/b", "\0", "x" * 10_000])
def test_no_id_leads_out_of_the_spool(calls: Calls, job_id: str) -> None:
    for call in (calls.get, calls.fetched, calls.cancel, lambda name: calls.upload(name, b"abc")):
        with refused() as why:
            call(job_id)
        assert why[0].reason == "NO_SUCH_JOB"
    calls.delete(job_id)


def test_lists_come_in_pages_newest_first(calls: Calls) -> None:
    made = [calls.create().id for _ in range(5)]
    seen: list[str] = []
    token = ""
    while True:
        page = calls.jobs(2, token)
        assert len(page.jobs) <= 2
        seen += [job.id for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert [job_id for job_id in seen if job_id in made] == made[::-1]
    assert len(seen) == len(set(seen))
    for call in (lambda: calls.jobs(-1), lambda: calls.jobs(2, "nonsense")):
        with refused() as why:
            call()
        assert why[0].code == grpc.StatusCode.INVALID_ARGUMENT
    for job_id in made:
        calls.delete(job_id)


def test_a_piece_that_is_too_large_is_refused(calls: Calls) -> None:
    job = calls.create()
    data = bytes((1 << 20) + 1)
    piece = wire.UploadFilmRequest(job_id=job.id, data=data, crc32c=google_crc32c.value(data))
    with refused() as why:
        list(calls.stub.UploadFilm(iter([piece])))
    assert why[0].field == "data"
    assert calls.get(job.id).uploaded == 0
    calls.delete(job.id)
