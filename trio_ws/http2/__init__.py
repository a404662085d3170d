"""WebSocket over HTTP/2 (RFC 8441): many WebSockets are streams of one connection.

Only :mod:`~trio_ws.client` and :mod:`~trio_ws.server` import these modules, and only if the option ``http2`` asks for
it. They require h2: ``pip install trio-ws[http2]``.

======================================  =======================================================================
:mod:`~trio_ws.http2.negotiation`       the option ``http2``, and how both ends agree on HTTP/2
:mod:`~trio_ws.http2.frames`            frames that are read and written without h2
:mod:`~trio_ws.http2.headers`           requests and responses as lists of headers
:mod:`~trio_ws.http2.floods`            limits on frames that cost more than they are worth
:mod:`~trio_ws.http2.blocks`            header blocks: frames become lists of headers
:mod:`~trio_ws.http2.input`             received bytes become frames
:mod:`~trio_ws.http2.settings`          the settings of this end
:mod:`~trio_ws.http2.tunnels`           the flow control of received WebSockets
:mod:`~trio_ws.http2.messages`          the frames of a request or a response
:mod:`~trio_ws.http2.protocol`          HTTP/2 without I/O: h2, with a guard in front of it
:mod:`~trio_ws.http2.output`            writing; streams that have much to send take turns
:mod:`~trio_ws.http2.stream`            a stream of HTTP/2 as a Trio stream
:mod:`~trio_ws.http2.adapter`           the same stream as the connection of a WebSocket wants it
:mod:`~trio_ws.http2.arrivals`          the streams that the peer has opened, until they are served
:mod:`~trio_ws.http2.connection`        the connection: one reader task, one writer task, many streams
======================================  =======================================================================
"""
