"""permessage-deflate (RFC 7692): negotiation, and the transform of messages.

A message is compressed as a sequence of DEFLATE blocks that ends with an empty block, whose last four bytes are not
sent (section 7.2). Compressor and decompressor keep their window between messages ("context takeover"), unless the
peers agreed not to.

The only context that a later message can refer to is the last bytes of the messages before it, at most as many as the
window holds. :class:`PerMessageDeflate` keeps a copy of these bytes, so compressors and decompressors can be freed
between messages: a new one continues with these bytes as its dictionary. Decompressors are so cheap that each message
gets a new one. Creating a compressor takes some microseconds, so it is kept until :meth:`PerMessageDeflate.rest`, which
is called on idle connections and reduces their memory from up to some hundreds of KiB to a few.

Each direction has a window of 2**8 to 2**15 bytes. ``server_max_window_bits`` limits the window that the server
compresses with, and the client must be able to decompress; ``client_max_window_bits`` is the reverse. Both ends may use
a smaller window than negotiated.

===============================================  ==============================================================
:mod:`~trio_ws.protocol.deflate.settings`        ``Deflate``: options of compression
:mod:`~trio_ws.protocol.deflate.transform`       ``PerMessageDeflate``: compressing and decompressing messages
:mod:`~trio_ws.protocol.deflate.negotiation`     ``DeflateClient``, ``DeflateServer``
===============================================  ==============================================================
"""

from .negotiation import DeflateClient, DeflateServer
from .settings import Deflate
from .transform import PerMessageDeflate

__all__ = ["Deflate", "DeflateClient", "DeflateServer", "PerMessageDeflate"]
