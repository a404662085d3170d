"""Negotiation of compression in the opening handshake: ``DeflateClient``, ``DeflateServer``."""

from __future__ import annotations

import re
from typing import Any

import attrs

from ...exceptions import NegotiationError
from ..extensions import Params
from .settings import MAX_WINDOW_BITS, WINDOW_BITS, Deflate
from .transform import PerMessageDeflate

__all__ = ["DeflateClient", "DeflateServer"]

NAME = "permessage-deflate"

_WINDOW_BITS_VALUE = re.compile(r"[89]|1[0-5]")


@attrs.frozen(kw_only=True, eq=False, repr=False)
class _Parameters:
    """The four parameters (RFC 7692, section 7.1). Window bits of None mean the largest window.

    ``client_max_window_bits`` is True if it has no value, which is allowed only in offers.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | bool | None = None

    @classmethod
    def parse(cls, params: Params, *, offer: bool) -> _Parameters:
        values: dict[str, Any] = {}
        for name, value in params:
            if name in values:
                raise NegotiationError(f"the parameter {name!r} of {NAME} must not occur twice")
            if name in ("server_no_context_takeover", "client_no_context_takeover"):
                if value is not None:
                    raise NegotiationError(f"the parameter {name!r} of {NAME} must not have a value, not {value!r}")
                values[name] = True
            elif name in ("server_max_window_bits", "client_max_window_bits"):
                if value is None and offer and name == "client_max_window_bits":
                    values[name] = True
                elif value is None or not _WINDOW_BITS_VALUE.fullmatch(value):
                    raise NegotiationError(f"the parameter {name!r} of {NAME} must be from 8 to 15, not {value!r}")
                else:
                    values[name] = int(value)
            else:
                raise NegotiationError(f"{NAME} has no parameter {name!r}")
        return cls(**values)

    def build(self) -> Params:
        params: list[tuple[str, str | None]] = []
        for field in attrs.fields(_Parameters):
            value = getattr(self, field.name)
            if value is True:
                params.append((field.name, None))
            elif value:
                params.append((field.name, str(value)))
        return tuple(params)


class DeflateClient:
    """The client's side of the negotiation: a :class:`~trio_ws.protocol.extensions.ClientExtension`."""

    name: str = NAME

    def __init__(self, settings: Deflate) -> None:
        self._settings = settings

    def offers(self) -> list[Params]:
        """Return the parameters of the only offer (RFC 7692, section 7.1)."""
        settings = self._settings
        return [
            _Parameters(
                server_no_context_takeover=settings.server_no_context_takeover,
                client_no_context_takeover=settings.client_no_context_takeover,
                server_max_window_bits=settings.server_max_window_bits,
                client_max_window_bits=settings.client_max_window_bits or True,
            ).build()
        ]

    def accept(self, params: Params) -> PerMessageDeflate:
        """Return the transform for the server's answer.

        Raises:
            NegotiationError: If the answer is malformed, or the server did not agree to a required parameter.
        """
        settings = self._settings
        answer = _Parameters.parse(params, offer=False)
        if settings.server_no_context_takeover and not answer.server_no_context_takeover:
            raise NegotiationError(f"the server did not agree to 'server_no_context_takeover' of {NAME}")
        # Some servers omit the parameter when it has the largest value.
        wanted, answered = settings.server_max_window_bits, answer.server_max_window_bits or MAX_WINDOW_BITS
        if wanted is not None and answered > wanted:
            raise NegotiationError(f"the server did not agree to 'server_max_window_bits={wanted}' of {NAME}")
        return PerMessageDeflate(
            settings,
            send_bits=min(
                answer.client_max_window_bits or MAX_WINDOW_BITS, settings.client_max_window_bits or WINDOW_BITS
            ),
            receive_bits=answered,
            send_takeover=not (settings.client_no_context_takeover or answer.client_no_context_takeover),
            receive_takeover=not answer.server_no_context_takeover,
        )


class DeflateServer:
    """The server's side of the negotiation: a :class:`~trio_ws.protocol.extensions.ServerExtension`."""

    name: str = NAME

    def __init__(self, settings: Deflate) -> None:
        self._settings = settings

    def answer(self, params: Params) -> tuple[Params, PerMessageDeflate] | None:
        """Return the answer to one offer, or None if it is malformed (RFC 7692, section 7)."""
        settings = self._settings
        try:
            offer = _Parameters.parse(params, offer=True)
        except NegotiationError:
            return None
        send_bits = min(offer.server_max_window_bits or MAX_WINDOW_BITS, settings.server_max_window_bits or WINDOW_BITS)
        # True allows any window. Without the parameter the answer must not ask for a smaller window than the largest.
        receive_bits = None
        if offer.client_max_window_bits:
            offered = MAX_WINDOW_BITS if offer.client_max_window_bits is True else offer.client_max_window_bits
            receive_bits = min(offered, settings.client_max_window_bits or WINDOW_BITS)
        answer = _Parameters(
            server_no_context_takeover=offer.server_no_context_takeover or settings.server_no_context_takeover,
            client_no_context_takeover=offer.client_no_context_takeover or settings.client_no_context_takeover,
            server_max_window_bits=send_bits,
            client_max_window_bits=receive_bits,
        )
        return answer.build(), PerMessageDeflate(
            settings,
            send_bits=send_bits,
            receive_bits=receive_bits or MAX_WINDOW_BITS,
            send_takeover=not answer.server_no_context_takeover,
            receive_takeover=not answer.client_no_context_takeover,
        )
