"""URLs of Redis: their checks, and their TLS configuration.

coredis ignores parameters that it does not know, and databases that are no numbers. So a mistake in a URL would remain
unnoticed, and messages would go to another database. And the TLS configuration of coredis does not check the name of
the host.
"""

from __future__ import annotations

import os
import re
import ssl
from urllib.parse import parse_qs, urlsplit

__all__ = ["check_url", "make_ssl_context"]

#: The parameters of a URL with TLS, each with the values that it may have, or () if it is the path of a file.
_TLS_PARAMETERS: dict[str, tuple[str, ...]] = {
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
    "ssl_cert_reqs": ("none", "optional", "required"),
    "ssl_check_hostname": ("true", "false"),
}


def check_url(url: object) -> None:
    """Check a URL of Redis. The errors show only parts of it, because it may have a password.

    Raises:
        TypeError: If it is not a str.
        ValueError: If it is no URL of Redis.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("the host in url must be a name or an address, with IPv6 addresses in brackets") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError(f"url must begin with redis://, rediss:// or unix://, not with {parts.scheme!r}")
    if "#" in url:
        raise ValueError("url must not have a fragment: a # in a password must be %23")
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("url must have a path after unix://")
    else:
        if not parts.hostname:
            raise ValueError(f"url must have a host after {parts.scheme}://")
        if parts.path not in ("", "/"):
            _check_database(parts.path.removeprefix("/"))
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("the port in url must be between 0 and 65535") from None
    _check_parameters(parts.scheme, parts.query)


def _check_database(value: str) -> None:
    if not re.fullmatch("[0-9]{1,9}", value):
        raise ValueError(f"the database in url must be a number, not {value!r}")


def _check_parameters(scheme: str, query: str) -> None:
    """Check the parameters of a URL.

    Raises:
        ValueError: If one is unknown, or its value is none that it may have.
    """
    allowed = {"redis": (), "rediss": tuple(_TLS_PARAMETERS), "unix": ("db",)}[scheme]
    parameters = parse_qs(query, keep_blank_values=True)
    for name, values in parameters.items():
        if name not in allowed:
            # The value may be a secret.
            expected = f"only have the parameters {', '.join(allowed)}" if allowed else "not have parameters"
            raise ValueError(f"a url with {scheme}:// must {expected}, not {name!r}")
        if len(values) > 1:
            raise ValueError(f"the parameter {name} of url must not be repeated")
        (value,) = values
        if name == "db":
            _check_database(value)
        elif (choices := _TLS_PARAMETERS[name]) and value not in choices:
            raise ValueError(f"the parameter {name} of url must be {' or '.join(choices)}, not {value!r}")
        elif not value:
            raise ValueError(f"the parameter {name} of url must be a path, not {value!r}")
    if ("ssl_certfile" in parameters) != ("ssl_keyfile" in parameters):
        raise ValueError("url must have both or none of the parameters ssl_certfile and ssl_keyfile")
    if parameters.get("ssl_check_hostname") == ["true"] and parameters.get("ssl_cert_reqs") == ["none"]:
        raise ValueError("the parameter ssl_cert_reqs of url must not be 'none' with ssl_check_hostname=true")


def make_ssl_context(url: str) -> ssl.SSLContext:
    """Return the TLS configuration of a URL. By default, the certificate and the name of the host are checked.

    Raises:
        OSError: If a file cannot be read, or has no certificate or key.
    """
    parameters = {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}
    authorities = parameters.get("ssl_ca_certs")
    if authorities is not None and os.path.isdir(authorities):
        context = ssl.create_default_context(capath=authorities)
    else:
        context = ssl.create_default_context(cafile=authorities)
    if "ssl_certfile" in parameters:
        context.load_cert_chain(parameters["ssl_certfile"], parameters["ssl_keyfile"])
    requirement = parameters.get("ssl_cert_reqs", "required")
    context.check_hostname = requirement != "none" and parameters.get("ssl_check_hostname") != "false"
    context.verify_mode = ssl.VerifyMode[f"CERT_{requirement.upper()}"]
    return context
