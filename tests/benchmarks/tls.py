"""Certificates for the measurements over TLS, created for each run."""

from __future__ import annotations

import ssl
from pathlib import Path

CERTIFICATE, AUTHORITY = "server.pem", "ca.pem"


def make_certificates(folder: Path) -> None:
    """Write a certificate for this machine with its key, and the certificate of its authority."""
    import trustme  # only the process that creates them needs this

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / AUTHORITY))
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(folder / CERTIFICATE)
    )


def server_context(folder: str | None) -> ssl.SSLContext | None:
    """Return the TLS context of a server; None for plain connections."""
    if folder is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(Path(folder, CERTIFICATE))
    return context


def client_context(folder: str) -> ssl.SSLContext:
    """Return the TLS context of a client."""
    return ssl.create_default_context(cafile=str(Path(folder, AUTHORITY)))
