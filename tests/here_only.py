"""Refuse and record connections to any other machine: in the tests (conftest.py) and in the notebooks' kernels, to which
notebooks/conftest.py passes this source."""

import contextlib
import ipaddress
import socket
import sys

TRIED: list[str] = []  # the connections that the tests' process tried


@contextlib.contextmanager
def no_connections():
    """AssertionError if a connection to another machine was tried inside, even where the refusal was caught."""
    before = len(TRIED)
    yield
    assert TRIED[before:] == [], "connections to other machines were tried"


def here_only(note):
    """From now on no connection and no name look-up leaves this machine; each attempt is passed to `note`.

    An audit hook, which cannot be removed again, sees every socket of Python. It does not see the sockets of other processes
    and of libraries written in C.
    """
    names = {"localhost", "localhost.localdomain", socket.gethostname(), "", None}

    def here(host):
        host = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        try:
            return host in names or ipaddress.ip_address(host.split("%")[0]).is_loopback or host == "0.0.0.0"
        except ValueError:
            return False

    def watch(event, args):
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = args[1]
            hosts = [address[0]] if isinstance(address, tuple) else []  # otherwise a Unix socket of this machine
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            hosts = [args[0]]
        else:
            return
        for host in hosts:
            if not here(host):
                note(f"{event} {host}")
                raise OSError(f"refused by the tests: {event} {host} is another machine")

    sys.addaudithook(watch)
