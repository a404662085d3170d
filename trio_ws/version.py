"""The version, used by ``pyproject.toml`` and in the headers of the opening handshake."""

__version__ = "0.1.0"
