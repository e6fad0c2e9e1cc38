"""TLS: the server's certificate and key, and the authority whose client certificates let callers in.

Files that are renewed on disk are used from the next connection on; until they fit together the ones before are.
"""

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kinochrome_proto.errors import BadSettings

from . import metrics

log = logging.getLogger(__name__)

SOON_DAYS = 7
"""A certificate that expires within so many days is warned of."""


@dataclass(frozen=True)
class Files:
    """PEM files; gRPC speaks TLS 1.2 and 1.3 with them."""

    cert: Path
    """The server's certificate, and those between it and its authority after it."""
    key: Path
    """Its private key, without a passphrase."""
    client_ca: Path | None = None
    """Authorities of the clients' certificates: a caller needs one. By default callers need none."""

    @classmethod
    def given(cls, cert: Path | None, key: Path | None, client_ca: Path | None) -> "Files | None":
        """Of what a command line says; None where that is nothing. Raises BadSettings where it is half of it."""
        if cert is None and key is None and client_ca is None:
            return None
        if cert is None or key is None:
            missing = "--tls-cert" if cert is None else "--tls-key"
            raise BadSettings(f"{missing} is missing: TLS needs --tls-cert and --tls-key")
        return cls(cert, key, client_ca)


@dataclass(frozen=True)
class _Loaded:
    cert: bytes
    key: bytes
    client_ca: bytes | None
    expires: datetime

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(self.key, self.cert)], root_certificates=self.client_ca)


def credentials(files: Files) -> grpc.ServerCredentials:
    """What `server.add_secure_port` takes.

    Raises BadSettings in one line when a file is missing, is none, has expired, or does not fit the others.
    """
    renewing = _Renewing(files)
    return grpc.dynamic_ssl_server_credentials(
        renewing.current.configuration(),
        renewing,  # type: ignore[arg-type]  # None means unchanged, which the stubs do not know
        require_client_authentication=files.client_ca is not None,
    )


class _Renewing:
    """Called by gRPC at every connection: gives the new configuration, once there is one."""

    def __init__(self, files: Files) -> None:
        self._files, self._lock = files, threading.Lock()
        self._stamp = self._stamps()
        self._complaint = ""
        self.current = self._load()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                stamp = self._stamps()
                if stamp == self._stamp:
                    return None
                loaded = self._load()
            except (BadSettings, OSError) as error:
                # Two files cannot change at once: between them they do not fit. Asked again at the next connection.
                if str(error) != self._complaint:
                    log.error("renewed TLS files cannot be used, those before still are: %s", error)
                self._complaint = str(error)
                return None
            self._stamp, self._complaint, self.current = stamp, "", loaded
            log.info("TLS files were renewed: the certificate is good until %s", f"{loaded.expires:%Y-%m-%d %H:%M} UTC")
            return loaded.configuration()

    def _stamps(self) -> list[tuple[int, int, int]]:
        paths = [self._files.cert, self._files.key, *([self._files.client_ca] if self._files.client_ca else [])]
        found = []
        for path in paths:
            try:
                about = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((about.st_ino, about.st_size, about.st_mtime_ns))
        return found

    def _load(self) -> _Loaded:
        files = self._files
        cert, key = _bytes("--tls-cert", files.cert), _bytes("--tls-key", files.key)
        client_ca = _bytes("--tls-client-ca", files.client_ca) if files.client_ca else None
        chain = _certificates("--tls-cert", files.cert, cert)
        expires = _check_times("--tls-cert", files.cert, chain[0])
        try:
            private = load_pem_private_key(key, password=None)
        except TypeError:
            raise BadSettings(f"--tls-key {files.key} has a passphrase, which nobody could enter: remove it") from None
        except ValueError:
            raise BadSettings(f"--tls-key {files.key} is no private key in PEM format") from None
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if private.public_key().public_bytes(*form) != chain[0].public_key().public_bytes(*form):
            raise BadSettings(
                f"--tls-key {files.key} is not the key of --tls-cert {files.cert}: its own certificate comes first"
            )
        if client_ca is not None and files.client_ca is not None:
            authorities = _certificates("--tls-client-ca", files.client_ca, client_ca)
            newest = max(authorities, key=lambda one: one.not_valid_after_utc)  # a bundle may hold old ones too
            _check_times("--tls-client-ca", files.client_ca, newest)
        if files.key.stat().st_mode & 0o007:
            log.warning("--tls-key %s can be read by everybody on this machine: chmod o= %s", files.key, files.key)
        if (left := expires - datetime.now(UTC)).days < SOON_DAYS:
            log.warning("--tls-cert %s expires in %.1f days: renew it", files.cert, left.total_seconds() / 86400)
        metrics.certificate_expires(expires.timestamp())
        return _Loaded(cert, key, client_ca, expires)


def _bytes(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadSettings(f"{option} {path} cannot be read: {error.strerror}") from None


def _certificates(option: str, path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise BadSettings(f"{option} {path} is no certificate in PEM format") from None


def _check_times(option: str, path: Path, one: x509.Certificate) -> datetime:
    """When the certificate expires. Raises BadSettings where it is not valid now."""
    now, first, last = datetime.now(UTC), one.not_valid_before_utc, one.not_valid_after_utc
    if last < now:
        raise BadSettings(f"{option} {path} expired on {last:%Y-%m-%d %H:%M} UTC: renew it")
    if first > now:
        raise BadSettings(
            f"{option} {path} is valid only from {first:%Y-%m-%d %H:%M} UTC on: wait, or set this machine's clock"
        )
    return last
