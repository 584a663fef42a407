"""The address of a page: the packages that it needs, and a listening socket. Imports no server."""

import errno
import ipaddress
import socket
from collections.abc import Sequence
from importlib.util import find_spec

from glassworks.errors import ConfigError, ResourceError


def check_packages(command: str, packages: Sequence[str]) -> None:
    """Raise `ConfigError` if the extra `demo` is not installed. `packages` are names of modules."""
    missing = [name.replace("_", "-") for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"glassworks {command} needs {' and '.join(missing)}; install the extra: pip install 'glassworks[demo]'"
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises `ResourceError` for an address that is not free, `ConfigError` for an unknown host."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"--host {host}: no such host; 127.0.0.1 is this machine alone") from None
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ResourceError(
                f"--port {port}: another program listens there; choose another port, or 0 for any free one"
            ) from None
        option = f"--host {host}" if error.errno == errno.EADDRNOTAVAIL else f"--port {port}"
        raise ResourceError(f"{option}: not available on this machine ({error.strerror})") from None
    return listening


def name_of(host: str, address: str) -> str:
    """The name of the server in its address, where an IPv6 address has brackets."""
    if ipaddress.ip_address(address).is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
