"""The client of a server: films coloured there, and the jobs that do it."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.json_format import MessageToDict

from kinochrome_proto import errors
from kinochrome_proto.kinochrome.v1 import colorizer_pb2 as wire

from . import known_jobs, output, unfinished
from .access import Access
from .jobs import Coloured, Job, Progress
from .known_jobs import Known
from .line import Line
from .output import CONTAINER_OF
from .transfer import Transfer, watch
from .unfinished import Record, Unfinished

PATIENCE_S = 300.0
DROP_S = 10.0
"""What is waited for the removal of a job whose film is here: it would go by itself, but hold its place till then."""
MAX_SETTINGS = 3_000_000  # bytes: servers take messages of 4 MiB

StrPath = str | PathLike[str]
OnProgress = Callable[[Progress], None]
OnWarning = Callable[[str], None]


def ignore(_: object) -> None:
    """Takes what nobody asked to be told."""


class AsyncClient:
    """A server's client, for asyncio. `Client` is the same for programs without.

    Use as an async context manager, or call `close` at the end. Of one event loop; calls may run side by side.

    Whatever breaks, the line, the server, this process, is carried on: within a call by itself, after a kill by the
    same call again. What is needed for that lies beside the output, in OUT.kinochrome, until the film is whole.
    """

    def __init__(
        self,
        server: str,
        *,
        token: str | None = None,
        tls_ca: StrPath | None = None,
        cert: StrPath | None = None,
        key: StrPath | None = None,
        tls_name: str = "",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """
        Args:
            server: HOST:PORT. Servers on other machines are spoken to by TLS alone.
            token: what the server knows the caller by.
            tls_ca: PEM file of certificates that the server's is checked against, if not those everybody trusts.
            cert, key: PEM files of the certificate that the client shows, where the server asks for one.
            tls_name: name that the server's certificate is for, where HOST is another.
            patience_s: seconds for which a broken line is tried again while nothing moves. A server that has never
                answered is given up after three.

        Raises BadSettings when one of these cannot be.
        """
        ca, own, secret = (Path(file) if file is not None else None for file in (tls_ca, cert, key))
        self._access, self._patience_s = Access(server, token, ca, own, secret, tls_name), patience_s
        self._opened: Line | None = None

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; the next call would open another."""
        if self._opened is not None:
            opened, self._opened = self._opened, None
            await opened.close()

    @property
    def server(self) -> str:
        """HOST:PORT."""
        return self._access.server

    async def colorize(
        self,
        film: StrPath,
        out: StrPath,
        *,
        settings: wire.Settings | None = None,
        priority: int = 0,
        overwrite: bool = False,
        restart: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Colour a film on the server: send it, wait, fetch it, prove it, remove the job. Carries on where one was.

        Args:
            film: the black-and-white film.
            out: the coloured one; its ending chooses the container unless the settings do.
            settings: how; every field has a default.
            priority: of your jobs those of higher priority are begun first: -10 to 10.
            overwrite: replace `out` if it exists.
            restart: begin anew, though a run could be carried on.
            on_progress: called some ten times a second at most.
            on_warning: called with each thing that the user should know.

        Raises BadFilm, BadSettings, UnknownColorizer and others as the server states them; OutputInTheWay when `out`
        or OUT.kinochrome is in the way; QuotaReached, ServerFull; NotAllowed; Cancelled when somebody cancels the job;
        ServerUnreachable when nothing has moved for `patience_s`; OSError of the disks here. Of a job that failed or
        was cancelled nothing is kept. After other errors, or when the task is cancelled, all is kept, and the job goes
        on at the server.
        """
        film, out = Path(film), Path(out)
        settings = _complete(settings, out)
        identity = {"film": _checked(film), "settings": _plain(settings)}
        _refuse(out, overwrite=overwrite)
        if unfinished.is_local(out):
            if not restart:
                raise errors.OutputInTheWay(
                    f"{unfinished.folder_of(out)} holds an unfinished run on this machine: "
                    "leave out --server to carry on, or --restart to begin anew"
                )
            unfinished.remove_local(out)
        with Unfinished(out, restart=restart) as folder:
            if folder.record is not None and restart:
                await self._drop(folder.record.job_id)
                folder.record = None
            job = None
            if folder.record is not None:
                _refuse_others(folder.folder, folder.record.identity, identity)
                if folder.record.is_whole(out):
                    return await self._cleared(folder, folder.record, delete=True)
                job = await self._found(folder, folder.record, on_warning)
            if job is None:
                job = await self._created(folder, film, identity, settings, priority)
            return await self._run(folder, job, film, overwrite, True, on_progress, on_warning)

    async def resume(
        self,
        job_id: str,
        *,
        overwrite: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Carry on a job that `colorize` or `fetch` began on this machine and that was interrupted.

        Raises NoSuchJob when it was not begun here or is gone from the server; else as `colorize`.
        """
        known = known_jobs.find(job_id)
        out = Path(known.out) if known else None
        record = unfinished.recorded(out) if out else None
        if out is None or record is None or record.job_id != job_id:
            raise errors.NoSuchJob(
                f"nothing of job {job_id} lies on this machine: `kinochrome jobs fetch` gets what a server has of it"
            )
        _refuse(out, overwrite=overwrite)
        film = Path(record.film) if record.film else None
        with Unfinished(out) as folder:
            if record.is_whole(out):
                return await self._cleared(folder, record, delete=film is not None)
            self._line.meet()
            job = await self._job(job_id)
            if film is not None and job.state == wire.JOB_STATE_UPLOADING:
                _refuse_others(folder.folder, record.identity, {**record.identity, "film": _checked(film)})
            return await self._run(folder, job, film, overwrite, film is not None, on_progress, on_warning)

    async def fetch(
        self,
        job_id: str,
        out: StrPath,
        *,
        overwrite: bool = False,
        delete: bool = False,
        on_progress: OnProgress = ignore,
        on_warning: OnWarning = ignore,
    ) -> Coloured:
        """Fetch a job's coloured film, waiting for it if need be. Carries on where one was.

        Args:
            job_id: of a job of one's own, begun on whatever machine.
            out: the coloured film; the job's settings chose its container, not this name's ending.
            overwrite: replace `out` if it exists.
            delete: remove the job from the server afterwards.
            on_progress, on_warning: as in `colorize`.

        Raises NoSuchJob; else as `colorize`.
        """
        out = Path(out)
        _refuse(out, overwrite=overwrite)
        with Unfinished(out) as folder:
            record = folder.record
            if record is not None and record.job_id != job_id:
                raise errors.OutputInTheWay(
                    f"{folder.folder} belongs to another job, {record.job_id or 'one not yet begun'}: choose another -o"
                )
            if record is not None and record.is_whole(out):
                return await self._cleared(folder, record, delete=delete)
            job = await self._job(job_id)
            if record is None:
                folder.begin(Record(self.server, "", "", {}))
                self._name(folder, job_id)
            return await self._run(folder, job, None, overwrite, delete, on_progress, on_warning)

    async def jobs(self) -> list[Job]:
        """The caller's jobs on the server, newest first. Raises ServerUnreachable, NotAllowed, ServerFailed."""
        found: list[Job] = []
        request = wire.ListJobsRequest()
        while True:
            page = await self._line.ask(self._line.stub.ListJobs, request)
            found.extend(map(Job.of, page.jobs))
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def job(self, job_id: str) -> Job:
        """How a job stands. Raises NoSuchJob, and as `jobs`."""
        return Job.of(await self._job(job_id))

    async def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """How a job stands now, and whenever that changes, until it has ended. Raises NoSuchJob, and as `jobs`."""
        async with aclosing(watch(self._line, job_id)) as changes:
            async for job in changes:
                yield Job.of(job)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job. Of one that has ended nothing changes. Raises NoSuchJob, and as `jobs`."""
        return Job.of((await self._line.ask(self._line.stub.CancelJob, wire.CancelJobRequest(job_id=job_id))).job)

    async def delete(self, job_id: str) -> None:
        """Remove a job and all its bytes from the server. One that is gone is no error. Raises as `jobs`."""
        await self._line.ask(self._line.stub.DeleteJob, wire.DeleteJobRequest(job_id=job_id))
        known_jobs.forget(job_id)

    async def server_info(self) -> wire.GetServerInfoResponse:
        """What the server can do, and with what. Raises ServerUnreachable, NotAllowed, ServerFailed."""
        return await self._line.ask(self._line.stub.GetServerInfo, wire.GetServerInfoRequest())

    @property
    def _line(self) -> Line:
        if self._opened is None:
            self._opened = Line(self._access, self._patience_s)
        return self._opened

    async def _job(self, job_id: str) -> wire.Job:
        return (await self._line.ask(self._line.stub.GetJob, wire.GetJobRequest(job_id=job_id))).job

    async def _found(self, folder: Unfinished, record: Record, on_warning: OnWarning) -> wire.Job | None:
        """The job of an earlier run; None when there is none any more, or not yet."""
        self._line.meet()
        if not record.job_id:
            return None
        try:
            job = await self._job(record.job_id)
        except errors.NoSuchJob as gone:
            if record.server != self.server:
                raise errors.NoSuchJob(
                    f"{gone}; {folder.folder} belongs to a job of server {record.server}: name that, or --restart"
                ) from None
            on_warning(f"server {self.server} has job {record.job_id} no longer: it is begun anew")
            known_jobs.forget(record.job_id)
            folder.record = None
            return None
        if record.server != self.server:
            folder.note(server=self.server)
            self._name(folder, record.job_id)
        return job

    async def _created(
        self, folder: Unfinished, film: Path, identity: Mapping[str, Any], settings: wire.Settings, priority: int
    ) -> wire.Job:
        record = folder.record or folder.begin(unfinished.new_record(self.server, film, identity))
        request = wire.CreateJobRequest(
            request_id=record.request_id, settings=settings, film_size=identity["film"]["size"], priority=priority
        )
        try:
            job = (await self._line.ask(self._line.stub.CreateJob, request)).job
        except BaseException as error:
            refused = isinstance(error, errors.KinochromeError) and not isinstance(error, errors.ServerUnreachable)
            if refused or not self._line.met:  # there is no job, then
                folder.record = None
            raise
        self._name(folder, job.id)
        return job

    def _name(self, folder: Unfinished, job_id: str) -> None:
        """Note which job it is, beside the output and where `resume` looks."""
        record, access = folder.note(job_id=job_id), self._access
        ca, cert, key = (str(file.absolute()) if file else "" for file in (access.tls_ca, access.cert, access.key))
        out = str(folder.out.absolute())
        known_jobs.remember(Known(job_id, self.server, record.film, out, ca, cert, key, access.tls_name))

    async def _run(
        self,
        folder: Unfinished,
        job: wire.Job,
        film: Path | None,
        overwrite: bool,
        delete: bool,
        on_progress: OnProgress,
        on_warning: OnWarning,
    ) -> Coloured:
        """Whatever is left to do of a job."""
        transfer = Transfer(
            self._line,
            job,
            film=film,
            coloured=folder.coloured,
            on_sent=lambda: folder.note(sent=True),
            on_progress=on_progress,
            on_warning=on_warning,
        )
        job = await transfer.run()
        if (failure := Job.of(job).error()) is not None:
            if delete:
                await self._drop(job.id)
            folder.remove()
            known_jobs.forget(job.id)
            raise failure
        file = await asyncio.to_thread(output.ready, folder.coloured, folder.out)
        record = folder.note(
            frames=job.finished.frames,
            size=job.finished.size,
            sha256=job.finished.sha256.hex(),
            inode=file.stat().st_ino,
        )
        output.give_name(file, folder.out, overwrite=overwrite)
        return await self._cleared(folder, record, delete=delete)

    async def _cleared(self, folder: Unfinished, record: Record, *, delete: bool) -> Coloured:
        """The output has its name: clear away what led to it."""
        if delete:
            await self._drop(record.job_id)
        folder.remove()
        known_jobs.forget(record.job_id)
        return Coloured(folder.out, record.frames, record.size, record.sha256, record.job_id)

    async def _drop(self, job_id: str) -> None:
        """Remove a job if the server can be reached within DROP_S; it goes by itself some day."""
        if job_id:
            with suppress(errors.KinochromeError, TimeoutError):
                async with asyncio.timeout(DROP_S):
                    await self._line.ask(self._line.stub.DeleteJob, wire.DeleteJobRequest(job_id=job_id))


def _complete(settings: wire.Settings | None, out: Path) -> wire.Settings:
    complete = wire.Settings()
    if settings is not None:
        complete.CopyFrom(settings)
    if not complete.container:
        if out.suffix.lower() not in CONTAINER_OF:
            raise errors.BadSettings(f"{out}: the output's ending chooses its container; use {', '.join(CONTAINER_OF)}")
        complete.container = CONTAINER_OF[out.suffix.lower()]
    if complete.ByteSize() > MAX_SETTINGS:
        raise errors.BadSettings(
            "--reference: for a server the stills may be 3 MB in all; make them smaller, 800 pixels will do"
        )
    return complete


def _checked(film: Path) -> dict[str, Any]:
    """What tells the film from others."""
    try:
        if not film.is_file():
            raise errors.BadFilm(f"{film} is not a file" if film.exists() else f"{film} does not exist")
        identity = unfinished.film_identity(film)
    except OSError as error:
        raise errors.BadFilm(f"{film} cannot be read: {error.strerror}") from None
    if identity["size"] == 0:
        raise errors.BadFilm(f"{film} is empty")
    return identity


def _plain(settings: wire.Settings) -> dict[str, Any]:
    """Settings as plain values, stills by their SHA-256."""
    plain: dict[str, Any] = MessageToDict(settings, preserving_proto_field_name=True)
    if settings.look.references:
        plain["look"]["references"] = [hashlib.sha256(still).hexdigest() for still in settings.look.references]
    return plain


def _refuse(out: Path, *, overwrite: bool) -> None:
    """Raises OutputInTheWay when there is another film than the one that an interrupted run gave its name there."""
    if not overwrite and out.exists():
        record = unfinished.recorded(out)
        overwrite = record is not None and record.is_whole(out)
    output.refuse_existing(out, overwrite=overwrite)


def _refuse_others(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if differing := unfinished.differences(before, now):
        raise errors.OutputInTheWay(
            f"{folder} holds an unfinished run of other settings or another film ({differing}): "
            "run with those to carry on, or --restart to begin anew"
        )
