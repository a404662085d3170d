"""The version, which ``pyproject.toml`` and the headers of the opening handshake read."""

__version__ = "0.1.0"
