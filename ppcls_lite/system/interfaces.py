"""Which of this machine's network interfaces leads to another machine.

Read next: ../engine/distributed.py.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys

_ADDRESS_OF = 0x8915  # SIOCGIFADDR of netdevice(7): the first IPv4 address of an interface
_NAME_BYTES = 15


def interface_to(host: str) -> str | None:
    """The interface by whose address `host` (a name or an IPv4 address) reaches this machine.

    None where there is no route, and on systems other than Linux.
    """
    if sys.platform != "linux":
        return None
    import fcntl

    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # of a datagram socket: nothing is sent
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:_NAME_BYTES])
            with contextlib.suppress(OSError):  # it has no IPv4 address
                answer = fcntl.ioctl(probe.fileno(), _ADDRESS_OF, request)
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
    return None
