"""One file, checked, resumed, or one clear sentence."""

import errno
import hashlib
import http.client
import ipaddress
import os
import queue
import string
import threading
import urllib.request
from itertools import chain
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from filelock import FileLock
from tqdm.auto import tqdm

CHUNK = 256 * 1024  # bytes asked of the network at a time
TRIES = 5  # of one address, each of which has to bring new bytes
HOPS = 10  # redirects followed before they count as a loop
REFUSED = "downloads are refused under pytest and with FACELAB_OFFLINE=1"


class DownloadError(OSError):
    """A file could not be had; the message is one sentence with the file, the reasons and the way out."""


class _Trouble(Exception):
    """Why one address did not give the file, in a few words."""


class _Cut(_Trouble):
    """The connection ended early: what has arrived is good, and asking again may bring the rest."""


def fetch(urls, path, *, sha256=None, md5=None, size=None, timeout=5.0, progress=True) -> Path:
    """Bring one file to `path` from the first of `urls` that gives the right bytes, and return `path`.

    A right file that is already there is left alone, without network; a wrong one is replaced once the right one has
    arrived. Until then the bytes wait in `<path>.part`, from which a later call resumes; `<path>.lock` makes two
    processes fetch once.

    urls: http or https addresses, the best first, or a single one.
    sha256, md5: hexadecimal digests, in either case. Without one, any bytes of the right size are right, and the
        `.part` of an earlier call is not resumed, for nothing could tell whether the two pieces belong together.
    size: in bytes.
    timeout: seconds, above 0, in which a server must answer (name look-up included, each redirect anew), and the
        longest silence within the body.
    progress: show a bar.

    Raises DownloadError if no address gives the file or it cannot be written. Under pytest and with FACELAB_OFFLINE=1
    only this machine itself is asked.
    """
    urls, path = [urls] if isinstance(urls, str) else list(urls), Path(path)
    part, folder = path.with_name(path.name + ".part"), path.absolute().parent
    known = sha256 is not None or md5 is not None
    reasons = []

    def right(file):
        # The size first: it costs nothing, and spares the reading of a file that was cut short.
        return (size is None or _length(file) == size) and checked(file, sha256=sha256, md5=md5)

    def bring(url):
        if not known:
            part.unlink(missing_ok=True)
        for _ in range(TRIES):
            before = _length(part)
            try:
                start = _receive(url, part, size, timeout, progress)
            except _Trouble as error:
                trouble = error
                if not isinstance(error, _Cut) or _length(part) <= before:
                    break
            else:
                if right(part):
                    return True
                part.unlink()
                trouble = "wrong checksum" if known else "wrong size"
                # After a resume the older piece may be to blame: once more, from the first byte.
                if start == 0:
                    break
        reasons.append(f"{url} [{trouble}]")
        return False

    try:
        if right(path):
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            # While this one waited, another process may have brought the file, or stopped just before the last step.
            if right(path):
                return path
            if (known and right(part)) or any(bring(url) for url in urls):
                os.replace(part, path)
                return path
    except OSError as error:  # the network's errors have become reasons by now: this is the disk
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # some disks hold no file above 4 GB
        raise DownloadError(
            f"{path} could not be written ({error.strerror or error}): "
            f"{'free some space' if full else f'make {folder} writable'}, "
            "or put the file by hand into one of the folders of FACELAB_DATA."
        ) from error
    raise DownloadError(
        f"{path.name} could not be downloaded from {', '.join(reasons) or 'anywhere [no address is known]'}: "
        f"put the file by hand into {folder} and try again."
    )


def checked(path, *, sha256=None, md5=None) -> bool:
    """Whether `path` is a file with every digest given (hexadecimal, in either case); with none, whether it is a file.

    Raises OSError if the file is there but cannot be read.
    """
    wanted = {kind: want.lower() for kind, want in (("sha256", sha256), ("md5", md5)) if want is not None}
    return Path(path).is_file() and all(digest(path, kind) == want for kind, want in wanted.items())


def digest(path, kind="sha256") -> str:
    """The digest of a file, in lower-case hexadecimal, read in small pieces; `kind` is any name that hashlib knows.

    Raises OSError if the file cannot be read, ValueError for an unknown kind.
    """
    with open(path, "rb") as file:
        # md5 is for old lists of checksums, not for security; said so, it also works where FIPS rules forbid it.
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _length(file):
    return file.stat().st_size if file.exists() else 0


def _receive(url, part, size, timeout, progress):
    """Write into `part` what one answer of `url` brings, and return the offset of the first byte it brought."""
    have = _length(part)
    with _answer(url, {"Range": f"bytes={have}-"} if have else {}, timeout) as response:
        status, headers = response.status, response.headers
        elsewhere = status == 206 and not headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if have and (status == 416 or elsewhere):
            part.unlink()
            return _receive(url, part, size, timeout, progress)
        if status == 200:
            have = 0  # also in answer to a Range: the server sends the whole file all the same
        elif status != 206 or not have:
            raise _Trouble(f"{status} {http.client.responses.get(status, '')}".strip())
        total = None if response.length is None else have + response.length

        # What speaks against this answer is found before `part` is opened, which may hold good bytes of another one.
        body, head = _body(response, timeout), b""
        while len(head) < 512 and (piece := next(body, b"")):
            head += piece
        page = not have and head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))
        if page or headers.get_content_type() == "text/html":
            raise _Trouble("an HTML page (a quota or login page?)")
        if None not in (size, total) and total != size:
            raise _Trouble(f"announces {total} bytes instead of {size}")

        got, end, name = have, size if total is None else total, part.name.removesuffix(".part")
        shown = {"desc": name, "unit": "B", "unit_scale": True, "leave": False, "disable": not progress}
        with tqdm(total=end, initial=have, **shown) as bar, open(part, "ab" if have else "wb") as file:
            for piece in chain([head], body):
                file.write(piece)
                got += len(piece)
                bar.update(len(piece))
                if end is not None and got > end:
                    break  # wrong already, and it may never stop
            file.flush()
            os.fsync(file.fileno())
    if end is not None and got < end:
        raise _Cut("connection cut in the middle of the file")
    return have


def _body(response, timeout):
    """The body piece by piece, as it comes: nothing that has arrived is lost to what goes wrong later."""
    try:
        while piece := response.read1(CHUNK):
            yield piece
    except TimeoutError:
        raise _Cut(f"silent for {timeout:g} s in the middle of the file") from None
    except (OSError, http.client.HTTPException):
        raise _Cut("connection cut in the middle of the file") from None


def _answer(url, headers, timeout):
    """The answer at the end of the redirects, every one of which has to pass the same rules as the first address."""
    try:
        for _ in range(HOPS + 1):
            if urlsplit(url).scheme not in ("http", "https"):
                raise _Trouble(f"only http and https are fetched, not {urlsplit(url).scheme or 'this'}")
            offline = "PYTEST_CURRENT_TEST" in os.environ or os.environ.get("FACELAB_OFFLINE", "") not in ("", "0")
            if offline and not _here(url):
                raise _Trouble(REFUSED)
            response = _ask(url, headers, timeout)
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            response.close()
            # Some servers send spaces and raw bytes here; http.client has read the bytes as Latin-1.
            url = urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1"))
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", error)
        if isinstance(why, TimeoutError):
            raise _Trouble(f"no answer in {timeout:g} s") from None
        why = getattr(why, "verify_message", None) or getattr(why, "strerror", None) or str(why) or type(why).__name__
        raise _Trouble(" ".join(why.split())) from error
    raise _Trouble("a redirect loop")


def _ask(url, headers, timeout):
    """One request and its answer, whatever its status."""
    # Not urllib's own opener: that follows redirects unasked, also to ftp://, and makes an error of a 416.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "facelab")]  # several hosts turn Python's own name away
    opener.add_handler(urllib.request.ProxyHandler({} if _here(url) else None))  # a proxy's localhost is not ours
    opener.add_handler(urllib.request.HTTPHandler())
    opener.add_handler(urllib.request.HTTPSHandler())
    answers = queue.SimpleQueue()

    def ask():
        try:
            answers.put(opener.open(urllib.request.Request(url, headers=headers), timeout=timeout))
        except BaseException as error:
            answers.put(error)

    # In a thread, because a socket's timeout does not cover the name look-up and starts anew for each address of a
    # host: without a network that adds up to a minute.
    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _here(url):
    """Whether the address is this machine itself, judged by its letters: a name look-up would already be network."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
