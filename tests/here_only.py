"""Connections to any other machine are refused and noted: in the tests (conftest.py) and in the lessons' kernels
(notebooks/conftest.py, which gives each kernel this source)."""

import contextlib
import ipaddress
import socket
import sys

TRIED: list[str] = []  # where it is the tests' note: what was asked of other machines


@contextlib.contextmanager
def nobody_asked():
    """An AssertionError where another machine was asked meanwhile, even where the refusal was swallowed."""
    before = len(TRIED)
    yield
    assert TRIED[before:] == [], "other machines were asked"


def here_only(note):
    """From now on no connection and no name look-up leaves this machine; `note` is told what was asked for.

    An audit hook, which cannot be taken out again, sees every socket of Python. What other processes and libraries in C do with
    sockets of their own it does not see.
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
            hosts = [address[0]] if isinstance(address, tuple) else []  # else one between processes of this machine
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            hosts = [args[0]]
        else:
            return
        for host in hosts:
            if not here(host):
                note(f"{event} {host}")
                raise OSError(f"refused by the tests: {event} {host} is another machine")

    sys.addaudithook(watch)
