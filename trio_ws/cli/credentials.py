"""The user name and the password of ``--auth``."""

from __future__ import annotations

import base64
import getpass
import os
import sys

from ..client.options import Credentials
from .failure import WrongUsage
from .style import is_terminal

__all__ = ["basic_credentials"]


def basic_credentials(text: str) -> Credentials:
    """Return a function that returns the header for Basic authentication (RFC 7617).

    Redirects to another origin do not get this header.

    Args:
        text: ``USER:PASSWORD``, or ``USER`` to ask for the password on the terminal.

    Raises:
        WrongUsage: If there is no password, and no terminal to ask for it.
    """
    user, colon, password = text.partition(":")
    if not colon:
        if not is_terminal(sys.stdin):
            raise WrongUsage("--auth must be USER:PASSWORD: there is no terminal to ask for the password")
        try:
            password = getpass.getpass(f"Password of {user}: ")
        except EOFError as exc:
            raise WrongUsage("--auth needs a password") from exc
    headers = {"Authorization": "Basic " + base64.b64encode(os.fsencode(f"{user}:{password}")).decode()}
    return lambda _uri: headers
