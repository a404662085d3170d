"""TLS on a socket that this library has opened or accepted itself.

:class:`TLSAdapter` is a :class:`~trio_ws.connection.stream.StreamAdapter` that encrypts and decrypts with an
:class:`ssl.SSLObject`. TLS itself never waits, so a connection uses both kinds of sockets in the same way, and the
rules of the stream adapter hold for both:

* Plaintext is encrypted once all earlier ciphertext has been written, at most 64 KiB at a time. Cancelling a wait for
  the socket loses nothing: the next write begins with the rest of the ciphertext.
* Bytes that were decrypted before an error are delivered. After that, every read raises the error. If the stream ends
  without close_notify (RFC 8446, section 6.1), that is an error too: an attacker may have cut it off.
* Reading can make OpenSSL answer, for example to a key update. The answer is written at once, as far as the socket
  accepts it, and the next write begins with the rest. A peer that makes this end answer, but reads nothing, is cut off.
* ``send_eof()`` sends close_notify. Closing does not, like that of a :class:`trio.SSLStream` with ``https_compatible``:
  the closing handshake of WebSocket makes it unnecessary, and on Python 3.10, asyncio does not close a transport that
  receives it late.

A round trip takes a third fewer instructions than with :class:`trio.SSLStream`, whose every call takes a lock, executes
a checkpoint, and moves one record of 16 KiB. TLS on other streams than sockets uses :class:`trio.SSLStream`.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Sequence

import trio

from .stream import BATCH, RECEIVE_SIZE, StreamAdapter, StreamBroken, StreamSilent, socket_broken, stream_broken

__all__ = ["TLSAdapter", "start_tls"]

#: Maximum size of the plaintext in a TLS record, in bytes (RFC 8446, section 5.1). Small chunks are joined.
_RECORD = 16 * 1024

#: Maximum number of bytes of ciphertext that may wait when OpenSSL answers. Messages alone stay below it.
_MAX_UNWRITTEN = 4 * BATCH

#: Maximum number of times that :meth:`TLSAdapter.write` encrypts and writes before other tasks can run.
_MAX_PIECES = 16


async def start_tls(
    stream: StreamAdapter,
    context: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    nestable: bool = False,
    alpn: Sequence[str] | None = None,
) -> StreamAdapter:
    """Do the TLS handshake on a stream. If this raises or is cancelled, the caller must close the stream.

    Args:
        stream: The stream without TLS.
        context: The TLS context. Renegotiation is disabled for all its connections.
        server_side: Whether this end is the server.
        server_hostname: On a client, the name that the server's certificate must be valid for.
        nestable: Whether the result must wrap a Trio stream, for TLS inside TLS.
        alpn: On a client, the protocols to offer to the server; None to leave that to the context. Later connections of
            the context offer HTTP/1.1 alone, so that they do not get HTTP/2 unasked.

    Returns:
        The stream with TLS.

    Raises:
        StreamBroken: If the handshake fails.
    """
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if alpn is not None:
        context.set_alpn_protocols(alpn)
    try:
        result = _wrap(stream, context, server_side, server_hostname, nestable)
    finally:
        if alpn is not None:
            context.set_alpn_protocols(["http/1.1"])
    if isinstance(result, TLSAdapter):
        await result.do_handshake()
        return result
    try:
        await result.do_handshake()
    except trio.BrokenResourceError as exc:
        raise stream_broken(exc) from exc
    return StreamAdapter(result)


def _wrap(
    stream: StreamAdapter, context: ssl.SSLContext, server_side: bool, server_hostname: str | None, nestable: bool
) -> TLSAdapter | trio.SSLStream[trio.abc.Stream]:
    """Put TLS around a stream, without doing the handshake."""
    if stream.is_socket and stream.tls_object is None and not nestable:
        return TLSAdapter(stream.stream, context, server_side, server_hostname)
    # https_compatible: the stream may end without close_notify. The closing handshake of WebSocket shows whether
    # something was cut off.
    return trio.SSLStream(
        stream.stream, context, server_side=server_side, server_hostname=server_hostname, https_compatible=True
    )


class TLSAdapter(StreamAdapter):
    """The stream adapter for TLS on a socket.

    Args:
        stream: The stream of the socket.
        context: The TLS context.
        server_side: Whether this end is the server.
        server_hostname: On a client, the name that the server's certificate must be valid for.

    Attributes:
        tls_object: The TLS connection, with its certificates, version and cipher.
    """

    def __init__(
        self, stream: trio.abc.Stream, context: ssl.SSLContext, server_side: bool, server_hostname: str | None
    ) -> None:
        super().__init__(stream)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls_object: ssl.SSLObject = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        # Bytes to encrypt when the ciphertext in _unwritten has been written.
        self._plaintext: list[bytes | memoryview] = []
        # True once the peer, or this end, has sent close_notify.
        self._has_ended = self._has_closed = False

    async def do_handshake(self) -> None:
        """Do the TLS handshake.

        Raises:
            StreamBroken: If it fails.
        """
        is_silent = True
        while True:
            try:
                self.tls_object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            except ssl.SSLError as exc:
                broken = self._fail_handshake(exc)
                raise (StreamSilent(str(broken)) if is_silent else broken) from self._read_error
            self._take_ciphertext()
            await self.write([])
            if done:
                return
            await self.wait_readable()
            self._receive_ciphertext(RECEIVE_SIZE)
            is_silent = is_silent and not self._incoming.pending

    def _fail_handshake(self, exc: ssl.SSLError) -> StreamBroken:
        """Send the alert if that is possible without waiting. Return the error to raise."""
        self._read_error = socket_broken(exc)
        self._flush_now()
        return stream_broken(self._read_error)

    # -- Reading ---------------------------------------------------------------------------------------------------

    async def wait_readable(self) -> None:
        """Wait until :meth:`receive_now` may return bytes. Only one task may do so at a time.

        Raises:
            StreamBroken: If the connection is lost.
        """
        if not self._has_pending():
            await super().wait_readable()

    def receive_now(self, size: int) -> memoryview | None:
        """Return the bytes that have arrived, decrypted.

        Args:
            size: Maximum number of bytes.

        Returns:
            The bytes, which are valid until any adapter receives more; an empty view at the end of the stream; None if
            nothing has arrived.

        Raises:
            StreamBroken: If the connection is lost. Every later call raises it, too.
        """
        if self._has_closed:  # after send_eof(), bytes are only received to be discarded
            return super().receive_now(size)
        if self._read_error is None and not self._has_pending() and not self._receive_ciphertext(size):
            return None
        view = self._buffer[:size]
        count = self._decrypt(view)
        if count:
            return view[:count]
        if self._read_error is not None:
            raise stream_broken(self._read_error) from self._read_error
        return view[:0] if self._has_ended else None

    def _has_pending(self) -> bool:
        """Whether there may be bytes to decrypt, or the end has been received."""
        if self._has_closed:
            return False
        return bool(self._incoming.pending or self.tls_object.pending() or self._has_ended)

    def _receive_ciphertext(self, size: int) -> bool:
        """Receive ciphertext from the socket. Return whether any has arrived, or the end of the stream."""
        data = super().receive_now(size)
        if data is None:
            return False
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return True

    def _decrypt(self, view: memoryview) -> int:
        """Decrypt received bytes into a buffer. Return their number."""
        count = 0
        try:
            while self._read_error is None and count < len(view):
                size = self.tls_object.read(len(view) - count, view[count:])
                if not size:
                    self._has_ended = True
                    break
                count += size  # type: ignore[operator]  # read() into a buffer returns an int
                if not self._incoming.pending and not self.tls_object.pending():
                    break  # another read() would raise SSLWantReadError, which is slow
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            self._read_error = trio.BrokenResourceError("the TLS connection was cut off: it ended without close_notify")
        except ssl.SSLError as exc:
            self._read_error = socket_broken(exc)
        if self._outgoing.pending:
            self._write_answer()
        return count

    def _write_answer(self) -> None:
        """Write what OpenSSL answers to the peer. If too much of that waits already, reading ends."""
        self._take_ciphertext()
        if not self.write_now([]) and self._read_error is None and sum(map(len, self._unwritten)) > _MAX_UNWRITTEN:
            self._read_error = trio.BrokenResourceError("the peer sends key updates, but does not read the answers")

    # -- Writing ---------------------------------------------------------------------------------------------------

    @property
    def has_unwritten(self) -> bool:
        """Whether a part of the chunks was not written, or encrypted, yet, so that the next write begins with it."""
        return bool(self._unwritten or self._plaintext)

    def _add(self, chunks: list[bytes]) -> None:
        self._plaintext += chunks
        chunks.clear()
        if self._plaintext and not self._unwritten:
            self._encrypt()

    def _write_some(self) -> bool:
        for _ in range(_MAX_PIECES):
            if not super()._write_some():
                return False
            if not self._plaintext:
                return True
            self._record_progress()
            self._encrypt()
        return False

    def _encrypt(self) -> None:
        """Encrypt the next 64 KiB of the plaintext, or slightly more, or all of it if it is less."""
        size = 0
        while self._plaintext and size < BATCH:
            piece = self._take_piece()
            size += len(piece)
            try:
                while piece:
                    piece = piece[self.tls_object.write(piece) :]
            except ssl.SSLError:
                self._plaintext.insert(0, piece)  # the next write raises this, too
                raise
        self._take_ciphertext()

    def _take_piece(self) -> memoryview:
        """Take the next chunk of plaintext: a part of a large one, or several small ones that fit into one record."""
        piece = self._plaintext.pop(0)
        if len(piece) > 2 * BATCH:
            view = memoryview(piece)
            self._plaintext.insert(0, view[BATCH:])
            return view[:BATCH]
        if self._plaintext and len(piece) + len(self._plaintext[0]) <= _RECORD:
            chunks = [piece]
            size = len(piece)
            while self._plaintext and size + len(self._plaintext[0]) <= _RECORD:
                chunks.append(self._plaintext.pop(0))
                size += len(chunks[-1])
            piece = b"".join(chunks)
        return memoryview(piece)

    def _take_ciphertext(self) -> None:
        """Move the bytes that OpenSSL has to send to the queue of the socket."""
        if self._outgoing.pending:
            self._unwritten.append(self._outgoing.read())

    # -- Closing ---------------------------------------------------------------------------------------------------

    async def send_eof(self) -> bool:
        """Send close_notify and close the sending direction. Return whether that was possible."""
        if self.poisoned or self.has_unwritten:
            return False
        self._has_closed = True
        # unwrap() raises if the peer's close_notify, or application data, has not been read. Both are harmless here.
        with contextlib.suppress(ssl.SSLError):
            self.tls_object.unwrap()
        self._flush_now()
        return await super().send_eof()

    def _flush_now(self) -> None:
        """Write what OpenSSL has to send, as far as that is possible without waiting."""
        self._take_ciphertext()
        if self._unwritten:
            with contextlib.suppress(OSError):
                super()._write_some()
