"""permessage-deflate (RFC 7692): negotiation, and the transform of messages.

A message is compressed as one run of DEFLATE blocks that ends with an empty block, of which the last four bytes are
left out (section 7.2). Compressor and decompressor go on with their windows from message to message, unless it was
agreed that they start anew for each ("no context takeover").

What matters of the messages before is their last bytes, as many as the window has; whatever else a compressor and a
decompressor hold is for their own convenience. So these bytes are kept here, and both can be thrown away between two
messages: new ones that have them for a dictionary go on where the old ones were. A decompressor is made so cheaply that
each message has its own. A compressor takes some microseconds, so it is kept until :meth:`PerMessageDeflate.rest` puts
it away, which is for connections that are idle: then a few KiB are left of up to some hundreds.

Each direction has a window of 2 to the power of 8 to 15 bytes, and what the server compresses with is what the client
must be ready to decompress, hence ``server_max_window_bits`` and ``client_max_window_bits``. Either end may use less
than was agreed on.

===============================================  ==============================================================
:mod:`~trio_ws.protocol.deflate.settings`        ``Deflate``: how to compress
:mod:`~trio_ws.protocol.deflate.transform`       ``PerMessageDeflate``: compressing and decompressing messages
:mod:`~trio_ws.protocol.deflate.negotiation`     ``DeflateClient``, ``DeflateServer``
===============================================  ==============================================================
"""

from .negotiation import DeflateClient, DeflateServer
from .settings import Deflate
from .transform import PerMessageDeflate

__all__ = ["Deflate", "DeflateClient", "DeflateServer", "PerMessageDeflate"]
