"""A server on this machine that misbehaves in every way a real one does, and what `fetch` makes of it."""

import builtins
import errno
import hashlib
import io
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from facelab import download
from facelab.download import DownloadError, checked, digest, fetch

BYTES = random.Random(0).randbytes(300_000)
HALF = len(BYTES) // 2
SHA = hashlib.sha256(BYTES).hexdigest()
MD5 = hashlib.md5(BYTES).hexdigest()
HTML = b"\n<!DOCTYPE HTML><html><body>Too many people have downloaded this file.</body></html>" * 20
OUTSIDE = "http://faces.example.org/faces.zip"


class Server(ThreadingHTTPServer):
    """Each address has one behaviour: a function of the request's handler. `seen` keeps (address, Range) in order."""

    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.seen, self.release = {}, [], threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def at(self, behaviour):
        name = f"/{len(self.behaviours)}/faces.zip"
        self.behaviours[name] = behaviour
        return f"http://127.0.0.1:{self.server_port}{name}"

    @property
    def ranges(self):
        return [asked for _, asked in self.seen]

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is what several tests are about


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.asked = self.headers.get("Range")
        self.server.seen.append((self.path, self.asked))
        self.server.behaviours[self.path](self)

    def send(self, data, status=200, **headers):
        self.send_response(status)
        headers = {"Content-Type": "application/zip", "Content-Length": len(data), **headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def whole(handler):
    handler.send(BYTES)


def ranged(handler, until=None):
    """Honours Range, promises everything up to the end, sends up to `until`."""
    start = int(re.fullmatch(r"bytes=(\d+)-", handler.asked or "bytes=0-")[1])
    left = len(BYTES) - start
    if left <= 0:
        handler.send(b"", 416, Content_Range=f"bytes */{len(BYTES)}")
    else:
        place = {"Content-Range": f"bytes {start}-{len(BYTES) - 1}/{len(BYTES)}"} if handler.asked else {}
        handler.send(BYTES[start:until], 206 if handler.asked else 200, **{"Content-Length": left}, **place)


def cuts(*ends):
    """Honours Range, but its n-th answer ends after `ends[n]` bytes of the file; the ones after that are whole."""
    ends = list(ends)
    return lambda handler: ranged(handler, ends.pop(0) if ends else len(BYTES))


def always_cut(handler):
    """Ignores Range, promises everything, sends half."""
    handler.send(BYTES[:HALF], **{"Content-Length": len(BYTES)})


def stalls(handler):
    always_cut(handler)
    handler.server.release.wait(5)


def wrong(handler):
    handler.send(BYTES[::-1])


def html(handler):
    handler.send(b"<title>Log in</title>", **{"Content-Type": "text/html; charset=utf-8"})


def disguised_html(handler):
    handler.send(HTML[:5], **{"Content-Length": len(HTML)})
    time.sleep(0.05)
    handler.wfile.write(HTML[5:])


def cut_chunks(handler):
    """No length at all: pieces of announced size, the second of which ends early."""
    handler.send(b"%x\r\n" % HALF + BYTES[:HALF], **{"Content-Length": None, "Transfer-Encoding": "chunked"})
    handler.wfile.write(b"\r\n%x\r\n" % HALF + BYTES[HALF:-9])


def unending(handler):
    handler.send(b"", **{"Content-Length": None})
    for handler.server.sent in range(100):
        handler.wfile.write(bytes(1_000_000))


def status(code):
    return lambda handler: handler.send(HTML, code, **{"Content-Type": "text/html"})


def redirect(where):
    return lambda handler: handler.send(b"", 302, Location=where)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "faces.zip"


@pytest.fixture
def no_socket(monkeypatch):
    """No connection and no name look-up; keeps what was attempted."""
    attempts = []

    def refuse(address, *args, **kwargs):
        attempts.append(address)
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def part_of(path):
    return path.with_name("faces.zip.part")


def bring(urls, path, **options):
    return fetch(urls, path, **{"sha256": SHA, "size": len(BYTES), "timeout": 2, "progress": False} | options)


def fails(urls, path, **options):
    """The message of the failure, which has to be one sentence with the file and a way out; nothing half-written."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(DownloadError) as caught:
        bring(urls, path, **options)
    message = str(caught.value)
    assert isinstance(caught.value, OSError)
    assert "\n" not in message and message.endswith(".") and ". " not in message
    assert "faces.zip" in message and "put the file by hand into" in message
    assert (path.read_bytes() if path.exists() else None) == before
    return message


# The good cases


def test_brings_the_file_and_asks_once(server, path):
    url = server.at(whole)
    assert bring([url], path) == path and path.read_bytes() == BYTES
    assert not part_of(path).exists()
    assert bring([url], path) == path
    assert bring([url], path, sha256=None, md5=MD5.upper()) == path
    assert server.ranges == [None]


@pytest.mark.parametrize("checks", [{}, {"sha256": None, "md5": MD5}, {"sha256": None}, {"size": None}])
@pytest.mark.parametrize("there", [BYTES[:HALF], BYTES + b"!", b""])
def test_a_wrong_file_is_replaced(server, path, there, checks):
    path.parent.mkdir()
    path.write_bytes(there)
    assert bring(server.at(ranged), str(path), **checks) == path
    assert path.read_bytes() == BYTES and server.ranges == [None]


def test_the_final_name_appears_at_once_and_whole(server, path, monkeypatch):
    path.parent.mkdir()
    path.write_bytes(b"old")
    steps, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(file):
        steps.append("fsync")
        fsync(file)

    def watched_replace(source, target):
        steps.append("replace")
        assert source == part_of(path) and source.read_bytes() == BYTES
        assert target == path and target.read_bytes() == b"old"
        replace(source, target)

    def look(handler):
        handler.send(BYTES[:HALF], **{"Content-Length": len(BYTES)})
        handler.wfile.flush()
        steps.append(path.read_bytes())
        handler.wfile.write(BYTES[HALF:])

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    bring(server.at(look), path)
    assert steps == [b"old", "fsync", "replace"] and path.read_bytes() == BYTES


def test_without_a_length_the_checksum_decides(server, path):
    bring(server.at(lambda handler: handler.send(BYTES, **{"Content-Length": None})), path, size=None)
    assert path.read_bytes() == BYTES


def test_an_empty_file(server, path):
    bring(server.at(lambda handler: handler.send(b"")), path, sha256=hashlib.sha256().hexdigest(), size=0)
    assert path.read_bytes() == b""


def test_a_redirect_to_letters_that_no_address_may_have(server, path):
    server.behaviours["/a%20caf%C3%A9/faces.zip"] = whole
    bring(server.at(redirect("/a café/faces.zip".encode().decode("latin-1"))), path)


def test_a_server_that_turns_pythons_own_name_away(server, path):
    def picky(handler):
        (status(403) if "Python" in handler.headers["User-Agent"] else whole)(handler)

    bring(server.at(picky), path)


def test_a_redirect_is_followed_with_its_range(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(BYTES[:HALF])
    bring(server.at(redirect(server.at(ranged))), path)
    assert path.read_bytes() == BYTES and server.ranges == [f"bytes={HALF}-"] * 2


def test_the_bar_names_the_file(server, path, capsys):
    bring(server.at(whole), path, progress=True)
    assert "faces.zip" in capsys.readouterr().err
    bring(server.at(whole), path.with_name("other.zip"))
    assert capsys.readouterr() == ("", "")


def test_this_machine_is_asked_past_any_proxy(server, path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    bring(server.at(whole), path)


# Resuming


def test_a_cut_is_resumed_where_it_happened(server, path):
    bring(server.at(cuts(1000, 200_000)), path)
    assert path.read_bytes() == BYTES
    assert server.ranges == [None, "bytes=1000-", "bytes=200000-"]


def test_a_cut_without_checksum_is_resumed_too(server, path):
    bring(server.at(cuts(1000)), path, sha256=None, size=None)
    assert path.read_bytes() == BYTES and server.ranges == [None, "bytes=1000-"]


def test_a_cut_without_a_length_is_seen_by_the_size(server, path):
    url = server.at(lambda handler: handler.send(BYTES[:HALF], **{"Content-Length": None}))
    assert f"{url} [connection cut in the middle of the file]" in fails(url, path)
    assert part_of(path).read_bytes() == BYTES[:HALF]


def test_a_cut_between_chunks(server, path):
    url = server.at(cut_chunks)
    assert f"{url} [connection cut in the middle of the file]" in fails(url, path, size=None)
    assert part_of(path).read_bytes() == BYTES[:-9]


def test_a_second_call_resumes(server, path):
    assert "[connection cut in the middle of the file]" in fails(server.at(always_cut), path)
    assert server.ranges == [None, f"bytes={HALF}-"]  # the second try brought nothing new, so it was the last
    assert part_of(path).read_bytes() == BYTES[:HALF]
    bring(server.at(ranged), path)
    assert path.read_bytes() == BYTES and server.ranges[2:] == [f"bytes={HALF}-"]


def test_the_next_mirror_resumes(server, path):
    bring([server.at(always_cut), server.at(ranged)], path)
    assert path.read_bytes() == BYTES and server.ranges[-1] == f"bytes={HALF}-"


def test_tries_of_one_address_are_few(server, path):
    fails(server.at(cuts(*range(1000, 100_000, 1000))), path)
    assert len(server.seen) == download.TRIES


def test_a_server_that_ignores_range_starts_over(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(BYTES[:HALF])
    bring(server.at(whole), path)
    assert path.read_bytes() == BYTES and server.ranges == [f"bytes={HALF}-"]


@pytest.mark.parametrize("rubbish", [BYTES + b"!", b"?" * len(BYTES)])
def test_416_starts_over(server, path, rubbish):
    path.parent.mkdir()
    part_of(path).write_bytes(rubbish)
    bring(server.at(ranged), path)
    assert path.read_bytes() == BYTES and server.ranges == [f"bytes={len(rubbish)}-", None]


def test_a_piece_from_another_place_starts_over(server, path):
    def misplaced(handler):
        if handler.asked:
            handler.send(BYTES[7:], 206, Content_Range=f"bytes 7-{len(BYTES) - 1}/{len(BYTES)}")
        else:
            handler.send(BYTES)

    path.parent.mkdir()
    part_of(path).write_bytes(BYTES[:HALF])
    bring(server.at(misplaced), path)
    assert path.read_bytes() == BYTES and len(server.seen) == 2


def test_a_wrong_beginning_costs_one_more_try(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(b"?" * HALF)
    bring(server.at(ranged), path)
    assert path.read_bytes() == BYTES and server.ranges == [f"bytes={HALF}-", None]


@pytest.mark.parametrize("length", [HALF, len(BYTES)])
def test_without_checksum_an_old_part_is_not_trusted(server, path, length):
    path.parent.mkdir()
    part_of(path).write_bytes(b"?" * length)
    bring(server.at(ranged), path, sha256=None)
    assert path.read_bytes() == BYTES and server.ranges == [None]


def test_a_whole_part_needs_no_network(server, path, no_socket):
    path.parent.mkdir()
    part_of(path).write_bytes(BYTES)
    bring(server.at(ranged), path)
    assert path.read_bytes() == BYTES and not no_socket and not part_of(path).exists()


def test_an_interrupt_keeps_what_has_come(server, path, monkeypatch):
    class Interrupting(download.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "tqdm", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            bring(server.at(ranged), path)
    kept = part_of(path).read_bytes()
    assert kept and BYTES.startswith(kept) and not path.exists()
    bring(server.at(ranged), path)
    assert path.read_bytes() == BYTES and server.ranges == [None, f"bytes={len(kept)}-"]


# Addresses that do not give the file


@pytest.mark.parametrize(
    "behaviour, reason, requests",
    [
        (wrong, "[wrong checksum]", 1),
        (html, "[an HTML page (a quota or login page?)]", 1),
        (disguised_html, "[an HTML page (a quota or login page?)]", 1),
        (status(404), "[404 Not Found]", 1),
        (status(403), "[403 Forbidden]", 1),
        (status(206), "[206 Partial Content]", 1),
        (lambda handler: handler.send(BYTES[:9]), f"[announces 9 bytes instead of {len(BYTES)}]", 1),
        (lambda handler: handler.send(BYTES + b"!"), f"[announces {len(BYTES) + 1} bytes instead of {len(BYTES)}]", 1),
        (unending, "[wrong checksum]", 1),
        (lambda handler: handler.send(b"", 302, Location=handler.path), "[a redirect loop]", 11),
        (redirect("file:///etc/hostname"), "[only http and https are fetched, not file]", 1),
        (redirect("ftp://127.0.0.1/faces.zip"), "[only http and https are fetched, not ftp]", 1),
        (redirect(OUTSIDE), "[downloads are refused under pytest", 1),
        (redirect("http://[::1"), "[", 1),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"), "[SSH-2.0-OpenSSH]", 1),
        (lambda handler: None, "[Remote end closed connection without response]", 1),
    ],
)
def test_reasons(server, path, behaviour, reason, requests):
    url = server.at(behaviour)
    message = fails(url, path)
    assert f"{url} {reason}" in message and str(path.parent) in message
    assert len(server.seen) == requests
    assert not part_of(path).exists()
    bring([url, server.at(whole)], path)  # and none of them stands in the way of a good mirror
    assert path.read_bytes() == BYTES


def test_a_refusing_address_keeps_the_good_half(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(BYTES[:HALF])
    urls = [server.at(behaviour) for behaviour in (html, disguised_html, status(404), lambda h: h.send(b"short"))]
    fails(urls, path)
    assert part_of(path).read_bytes() == BYTES[:HALF]


def test_wrong_size_without_checksum(server, path):
    url = server.at(lambda handler: handler.send(BYTES + b"!", **{"Content-Length": None}))
    assert f"{url} [wrong size]" in fails(url, path, sha256=None)


def test_more_bytes_than_there_should_be_are_not_waited_for(server, path):
    fails(server.at(unending), path)
    assert server.sent < 90  # MB


def test_a_wrong_file_stays_until_a_right_one_comes(server, path):
    path.parent.mkdir()
    path.write_bytes(b"old")
    fails(server.at(wrong), path)
    assert path.read_bytes() == b"old"


def test_every_address_is_named_with_its_reason_in_order(server, path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refusing = f"http://localhost:{closed.getsockname()[1]}/faces.zip"
    urls = [server.at(status(404)), refusing, "file:///etc/hostname", server.at(wrong)]
    parts = ["404 Not Found", "Connection refused", "only http and https are fetched, not file", "wrong checksum"]
    expected = ", ".join(f"{url} [{reason}]" for url, reason in zip(urls, parts, strict=True))
    assert fails(urls, path) == (
        f"faces.zip could not be downloaded from {expected}: put the file by hand into {path.parent} and try again."
    )
    assert "no address is known" in fails([], path)


def test_a_server_that_does_not_answer(path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/faces.zip"
        started = time.monotonic()
        assert f"{url} [no answer in 0.2 s]" in fails(url, path, timeout=0.2)
        assert time.monotonic() - started < 1.5


def test_a_stall_in_the_middle(server, path):
    url = server.at(stalls)
    started = time.monotonic()
    assert f"{url} [silent for 0.3 s in the middle of the file]" in fails(url, path, timeout=0.3)
    assert time.monotonic() - started < 2
    assert part_of(path).read_bytes() == BYTES[:HALF]


def test_a_slow_name_look_up_counts_as_no_answer(path, monkeypatch):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.delenv("FACELAB_OFFLINE", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(2) or [])
    started = time.monotonic()
    assert f"{OUTSIDE} [no answer in 0.2 s]" in fails(OUTSIDE, path, timeout=0.2)
    assert time.monotonic() - started < 1.5


# Nothing outside this machine


@pytest.mark.parametrize(
    "url",
    [
        OUTSIDE,
        "https://huggingface.co/faces.zip",
        "http://192.168.0.1/faces.zip",
        "http://[2001:db8::1]/faces.zip",
        "http://localhost.example.org/faces.zip",
        "http://localhost@example.org/faces.zip",
        "http://127.0.0.1.example.org/faces.zip",
    ],
)
def test_outside_addresses_are_refused_without_a_socket(path, no_socket, monkeypatch, url):
    refusal = f"{url} [downloads are refused under pytest"
    assert refusal in fails(url, path)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("FACELAB_OFFLINE", "1")
    assert refusal in fails(url, path)
    assert not no_socket
    monkeypatch.setenv("FACELAB_OFFLINE", "0")
    assert "Network is unreachable" in fails("http://faces.example.org/faces.zip", path)
    assert no_socket  # so the refusal above was the guard's, not the network's


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "faces.zip", "", "http:///x", "http://[::1"]
)
def test_what_is_no_web_address_is_refused_everywhere(path, no_socket, monkeypatch, url):
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setenv("FACELAB_OFFLINE", "0")
    fails(url, path)
    assert not no_socket


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_this_machine_is_allowed(path, no_socket, host):
    assert "Network is unreachable" in fails(f"http://{host}:80/faces.zip", path)
    assert no_socket


def test_a_redirect_outside_opens_no_further_socket(server, path, monkeypatch):
    connect, hosts = socket.create_connection, []

    def watched(address, *args, **kwargs):
        hosts.append(address[0])
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", watched)
    hop = server.at(redirect(OUTSIDE))
    assert "downloads are refused under pytest" in fails(server.at(redirect(hop)), path)
    assert hosts == ["127.0.0.1", "127.0.0.1"]


# One at a time


def slow(handler):
    time.sleep(0.5)
    handler.send(BYTES)


def test_two_threads_fetch_once(server, path):
    url, results = server.at(slow), []
    threads = [threading.Thread(target=lambda: results.append(bring(url, path)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [path, path] and path.read_bytes() == BYTES and len(server.seen) == 1


def test_two_processes_fetch_once(server, path):
    code = f"from facelab.download import fetch; fetch({server.at(slow)!r}, {str(path)!r}, sha256={SHA!r})"
    root = Path(download.__file__).parents[1]
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=root) for _ in range(2)]
    assert [process.wait(10) for process in processes] == [0, 0]
    assert path.read_bytes() == BYTES and len(server.seen) == 1


# The disk


def test_a_full_disk(server, path, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_open(file, mode="r", **options):
        return Full(file, mode) if mode in ("wb", "ab") else builtins.open(file, mode, **options)

    monkeypatch.setattr(download, "open", full_open, raising=False)
    message = fails([server.at(whole), server.at(whole)], path)
    assert message.startswith(f"{path} could not be written (No space left on device): free some space, ")
    assert "one of the folders of FACELAB_DATA" in message
    assert len(server.seen) == 1  # no mirror helps against a full disk


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_read_only_folder(server, path, monkeypatch, code):
    path.parent.mkdir()
    path.write_bytes(BYTES)

    def refuse(file, *args, **kwargs):  # not by chmod, which does not stop root
        raise OSError(code, os.strerror(code), file)

    monkeypatch.setattr(os, "open", refuse)
    assert bring(server.at(whole), path) == path  # what is there and right needs no writing
    missing = path.with_name("other-faces.zip")
    message = fails(server.at(whole), missing)
    assert message.startswith(f"{missing} could not be written ({os.strerror(code)}): make {path.parent} writable, ")
    assert "one of the folders of FACELAB_DATA" in message
    assert not server.seen


def test_a_folder_that_is_a_file(server, path):
    path.parent.write_bytes(b"")
    assert f"make {path.parent} writable" in fails(server.at(whole), path)


# The helpers


def test_digest_and_checked(tmp_path):
    file = tmp_path / "faces.zip"
    file.write_bytes(BYTES)
    assert digest(file) == SHA and digest(str(file), "md5") == MD5
    assert checked(file) and checked(file, sha256=SHA) and checked(file, sha256=SHA.upper(), md5=MD5.upper())
    assert not checked(file, sha256=MD5) and not checked(file, md5="") and not checked(file, sha256=SHA, md5="0" * 32)
    assert not checked(tmp_path / "missing") and not checked(tmp_path)
    with pytest.raises(FileNotFoundError):
        digest(tmp_path / "missing")
