"""The connection of h2, with the settings that this end sends to its peer (RFC 9113, section 6.5.2)."""

from __future__ import annotations

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, H2Connection
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from .frames import MAX_FRAME_SIZE, MAX_WINDOW
from .negotiation import PREFACE

__all__ = ["H2", "MAX_CLOSED", "create_h2"]

#: The number of closed streams of which late frames are known as such, because how they were closed is remembered. By
#: default, h2 remembers 65,536, which takes 10 MB.
MAX_CLOSED = 1_000

#: The largest value of a setting (RFC 9113, section 6.5.1).
_MAX_VALUE = 2**32 - 1


class H2(H2Connection):
    """A connection of h2 that is asked for the states of its streams.

    It does not count streams: :class:`~trio_ws.http2.connection.HTTP2Connection` keeps to both limits.
    """

    MAX_CLOSED_STREAMS = MAX_CLOSED

    #: The number of streams that there were when those that are closed were last removed from ``streams``.
    _kept = 0

    def _terminate_connection(self, error_code: ErrorCodes) -> None:
        # This method of h2 sends GOAWAY for a violation. The protocol does that itself: it knows the reason, and which
        # stream an earlier GOAWAY frame has named.
        self.state_machine.process_input(ConnectionInputs.SEND_GOAWAY)

    def is_open(self, stream_id: int) -> bool:
        """Whether a stream is open in at least one direction."""
        stream = self.streams.get(stream_id)
        return stream is not None and stream.open

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never opened."""
        is_ours = bool(stream_id % 2) is self.config.client_side
        return stream_id > (self.highest_outbound_stream_id if is_ours else self.highest_inbound_stream_id)

    @property
    def open_outbound_streams(self) -> int:
        """0, for the reason above."""
        # For each new stream, h2 looks at all streams to count those that are open, and removes the others meanwhile.
        # That would take a connection with a thousand streams longer than all the rest.
        if len(self.streams) > 2 * self._kept + 8:
            _ = super().open_outbound_streams
            self._kept = len(self.streams)
        return 0

    @property
    def open_inbound_streams(self) -> int:
        """0, for the reason above."""
        return self.open_outbound_streams


class _Settings(Settings):
    """Settings with which h2 accepts streams beyond the limit, instead of ending the connection.

    The caller refuses them (RFC 9113, section 5.1.2): a client that does not know the limit yet cannot keep to it.
    """

    @property
    def max_concurrent_streams(self) -> int:
        return 2**32

    @max_concurrent_streams.setter
    def max_concurrent_streams(self, value: int) -> None:
        raise NotImplementedError


def create_h2(*, is_client: bool, max_streams: int, window: int, max_header_list: int) -> H2:
    """Create a connection of h2 whose preface and SETTINGS frame wait to be written.

    Limits beyond what a setting can say are sent as the largest value.

    Args:
        is_client: Whether this is the client.
        max_streams: The number of streams that the peer may have open.
        window: The window of each stream, in bytes.
        max_header_list: Maximum size of decoded headers, in bytes.
    """
    # h2 sees no headers of the peer, and those of this end are valid and in the form that is sent.
    config = H2Configuration(
        client_side=is_client,
        validate_inbound_headers=False,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    settings = {
        SettingCodes.MAX_CONCURRENT_STREAMS: min(max_streams, _MAX_VALUE),
        SettingCodes.INITIAL_WINDOW_SIZE: min(window, MAX_WINDOW),
        SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_SIZE,
        SettingCodes.MAX_HEADER_LIST_SIZE: min(max_header_list, _MAX_VALUE),
    }
    if is_client:
        settings[SettingCodes.ENABLE_PUSH] = 0
    else:
        settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
    connection = H2(config)
    connection.local_settings = _Settings(client=is_client, initial_values=settings)
    connection.max_inbound_frame_size = MAX_FRAME_SIZE
    connection.initiate_connection()
    if not is_client:
        connection.receive_data(PREFACE)  # that of the client is checked before anything else is received
    return connection
