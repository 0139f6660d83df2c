"""CelebA from whatever lies at hand: finding it, reading its lists, preparing its faces, downloading it (lesson 03).

A face is the square (0, 20, 178, 198) of the aligned picture, reduced to 64x64 by Lanczos' filter. Where several files hold
the same id, it counts once: a picture that is 64x64 already is taken as it is, else the first in the order of folders and
names that can be read. Zip files are read where they lie: nothing in them is ever unpacked, whatever its name says.
"""

import functools
import hashlib
import io
import json
import os
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from facelab.attributes import CELEBA
from facelab.download import DownloadError, fetch
from facelab.plan import cache_dir, data_dirs
from facelab.prepared import Prepared, prepared, ready

RECIPE = "1"  # of a face's way from the file to the cache; another one prepares everything anew
SPLITS = ("train", "valid", "test")  # 0, 1, 2 in the official list
SQUARE, SIDE, ALIGNED = (0, 20, 178, 198), 64, (178, 218)
MOST = 1 << 20  # bytes of one picture: 178 x 218 x 3 are an eighth of it
LISTS = {"attributes": "list_attr_celeba", "partition": "list_eval_partition"}
PICTURE = re.compile(r"(?:^|[/\\])(\d{6})\.(?:jpg|png)$", re.IGNORECASE)
# A mirror tells the partition in a file's name, or in its folder's.
PARTS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
PARQUET = re.compile(r"(?:^|[/\\])(train|validation|valid|val|test)(?:[-_][\w.-]*|[/\\]\d+)?\.parquet$")
# Whatever a damaged file can bring down; Pillow answers some broken PNG files with a SyntaxError.
BROKEN = (
    *(OSError, ValueError, EOFError, SyntaxError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, Image.DecompressionBombError),
)
HELP = "celeba(download=True) fetches it (1.4 GB), or put its files into a folder that FACELAB_DATA names"


class Found(NamedTuple):
    """What of CelebA lies at hand: its two lists, zips and folders of `<id>.jpg`, a mirror's parquet files."""

    attributes: Path | None
    partition: Path | None
    pictures: tuple[Path, ...]
    parquets: tuple[Path, ...]

    @property
    def missing(self) -> list[str]:
        return [f"{name}.txt" for kind, name in LISTS.items() if getattr(self, kind) is None]

    @property
    def ways(self) -> list["Found"]:
        """What can be read by itself, the best first: pictures with their lists, then a mirror's files."""
        pictures = [self._replace(parquets=())] if self.pictures and not self.missing else []
        return pictures + ([self._replace(pictures=())] if self.parquets else [])

    @property
    def source(self) -> str:
        """The kind of files and the place, without a path."""
        used = self.pictures or self.parquets
        here = {"the cache" if cache_dir().resolve() in file.resolve().parents else "FACELAB_DATA" for file in used}
        kind = "official files" if self.pictures else "a mirror's parquet files"
        return f"{kind} in {' and '.join(sorted(here))}"


def find() -> Found:
    """Whatever lies in the folders of FACELAB_DATA and in the cache, down to torchvision's celeba/img_align_celeba."""
    lists, pictures, mirrors = {}, [], {}
    for place in _places():
        with os.scandir(place) as inside:
            names = sorted(one.name for one in inside if one.is_file())
        for kind, name in LISTS.items():
            here = [place / f"{name}{ending}" for ending in (".txt", ".csv", ".zip", ".txt.zip")]
            if kind not in lists and (file := next(filter(Path.is_file, here), None)):
                lists[kind] = file
        if any(map(PICTURE.search, names)):
            pictures.append(place)
        pictures += [place / name for name in names if name.lower().endswith(".zip") and _holds_pictures(place / name)]
        for file in (place / name for name in names if name.endswith(".parquet")):
            if PARQUET.search(str(file)) and b"Eyeglasses" in _end(file):
                mirrors.setdefault(place.parent if file.stem.isdigit() else place, []).append(file)
    # Two mirrors hold the same faces under no common name, so only the first counts.
    parquets = tuple(next(iter(mirrors.values()), ()))
    return Found(lists.get("attributes"), lists.get("partition"), tuple(pictures), parquets)


def _places() -> list[Path]:
    """torchvision keeps its pictures one folder further down than its lists, as do most who unpack a zip."""
    deeper = [inside for place in data_dirs() for inside in [place, *_folders(place)]]
    return list(dict.fromkeys(place.resolve() for place in deeper))


def _folders(place: Path) -> list[Path]:
    with os.scandir(place) as inside:
        folders = sorted(Path(one.path) for one in inside if one.is_dir() and not one.name.startswith("."))
    return [folder for folder in folders if os.access(folder, os.R_OK | os.X_OK)]


def _end(file: Path) -> bytes:
    """The last megabyte: there a zip has its table of contents, a parquet file the names of its columns."""
    try:
        with file.open("rb") as content:
            content.seek(max(0, file.stat().st_size - MOST))
            return content.read()
    except OSError:
        return b""


def _holds_pictures(file: Path) -> bool:
    """Whether one of the last entries of a zip is `<id>.jpg`, in no time; also where its table has been cut off."""
    end = _end(file)
    for entry in re.finditer(rb"PK(?:\x01\x02|\x03\x04)", end):
        length, name = (28, 46) if entry[0][2] == 1 else (26, 30)
        length, name = entry.start() + length, entry.start() + name
        if PICTURE.search(end[name : name + int.from_bytes(end[length : length + 2], "little")].decode("latin-1")):
            return True
    return False


def prepare(split: str) -> tuple[Prepared, str]:
    """The faces of one partition, prepared once, and one line that says which they are and whence.

    split: "train", "valid", "test", or "score": test where there are test pictures, else valid; the line says which.

    Raises:
        ValueError: where no CelebA is at hand, a list is missing or cannot be read, or the partition has no picture.
    """
    found, used = _choose(split)
    faces = prepared(_name(found, used), RECIPE, lambda: _rows(found, used), f"CelebA, {used}")
    why = " for want of test pictures" if (split, used) == ("score", "valid") else ""
    return faces, f"{len(faces.ids):,} faces of CelebA, {used}{why} ({found.source})"


def answers(split: str) -> tuple[np.ndarray, Tensor]:
    """(ids (N,), conds (N, 40) in {-1, +1}) of a whole partition, by the lists alone: no picture is needed.

    Raises:
        ValueError: where no list is at hand or one cannot be read.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be 'train', 'valid' or 'test', got {split!r}.")
    found = find()
    if not found.missing:
        rows, table = _attributes(found)
        ids = [one for one in sorted(_partition(found, split)) if one in rows]
        return np.array(ids), torch.from_numpy(table[[rows[one] for one in ids]])
    if found.parquets:
        ids, conds = [], []
        for inside, _, cond in _parquet_rows(found, split, pictures=False):
            ids.append(inside)
            conds.append(cond)
        return np.array(ids), torch.from_numpy(np.array(conds, np.int8).reshape(-1, len(CELEBA)))
    raise ValueError(f"{' and '.join(found.missing)} of CelebA not at hand: {HELP}.")


def at_hand() -> str:
    """Which pictures of CelebA lie at hand, in a few words, whatever state they are in; "" where there are none."""
    found = find()
    return (found.ways or [found])[0].source if found.pictures or found.parquets else ""


def _choose(split: str) -> tuple[Found, str]:
    """What to read for a partition, and which one it is."""
    if split not in (*SPLITS, "score"):
        raise ValueError(f"split must be 'train', 'valid', 'test' or 'score', got {split!r}.")
    found = find()
    if not found.pictures and not found.parquets:
        raise ValueError(f"there are no pictures of CelebA in FACELAB_DATA or the cache: {HELP}.")
    if not found.ways:
        raise ValueError(
            f"there are pictures of CelebA, but {' and '.join(found.missing)} (or .zip) is missing beside them: put the "
            "official list there, or let celeba(download=True) fetch it (30 MB)."
        )
    for wanted in ("test", "valid") if split == "score" else (split,):
        for way in found.ways:
            if _has(way, wanted):
                return way, wanted
    with ExitStack() as stack:
        index, broken = _index(found, stack)
    damaged = f" ({'; '.join(broken)})" if broken else ""
    raise ValueError(
        f"none of the {len(index):,} pictures of CelebA at hand is of the {wanted} partition{damaged}: {HELP}."
    )


def _name(found: Found, split: str) -> str:
    return f"celeba-{_stamp(found)}-{split}"


def _stamp(found: Found) -> str:
    """Names exactly these files in exactly this state: a picture more, or one touched, is another name."""
    lines = hashlib.sha256()
    for file in filter(None, (found.attributes, found.partition, *found.pictures, *found.parquets)):
        files = [file]
        if file.is_dir():
            with os.scandir(file) as inside:
                files = sorted(one.path for one in inside if PICTURE.search(one.name))
        for one in files:
            state = os.stat(one)
            lines.update(f"{one} {state.st_size} {state.st_mtime_ns}\n".encode())
    return lines.hexdigest()[:16]


# The lists


def _attributes(found: Found) -> tuple[dict[str, int], np.ndarray]:
    """{id: row} and the answers (N, 40) in the order of CELEBA."""
    return _read_attributes(found.attributes, found.attributes.stat().st_mtime_ns)


def _partition(found: Found, split: str) -> list[str]:
    parts = _read_partition(found.partition, found.partition.stat().st_mtime_ns)
    return [one for one, number in parts.items() if SPLITS[number] == split]


def _lines(file: Path) -> Iterator[list[str]]:
    """The words of each line, of a text, of Kaggle's comma-separated form, or of either inside a zip."""
    with ExitStack() as stack:
        try:
            content = file.open("rb")
            if file.suffix == ".zip":
                folder = stack.enter_context(zipfile.ZipFile(file))
                inside = [one for one in folder.infolist() if one.filename.endswith((".txt", ".csv"))]
                if len(inside) != 1 or inside[0].file_size > 100 << 20:
                    raise ValueError("it must hold one list of at most 100 MB")
                content = folder.open(inside[0])
            with io.TextIOWrapper(content, "utf-8-sig") as text:
                for line in text:
                    yield line.replace(",", " ").split()
        except BROKEN as error:
            raise ValueError(f"{file} cannot be read ({error}): put the official list there instead.") from error


@functools.lru_cache(maxsize=2)
def _read_attributes(file: Path, _state: int) -> tuple[dict[str, int], np.ndarray]:
    code = {"-1": 255, "0": 0, "1": 1}
    names, rows, table = None, {}, bytearray()
    for number, words in enumerate(_lines(file), 1):
        if names is None:
            # The official list opens with a count, Kaggle's puts a name over the column of ids.
            if len(words) > 1:
                names = words if words[0] in CELEBA.names else words[1:]
                if lost := [name for name in CELEBA if names.count(name) != 1]:
                    raise ValueError(
                        f"{file}, line {number}: each of CelebA's 40 names must stand there once, {', '.join(lost[:3])} "
                        f"{'do' if lost[1:] else 'does'} not: put the official list there instead."
                    )
        elif words and (one := _id(words[0], file, number)) not in rows:
            if len(words) != len(names) + 1 or not code.keys() >= set(words[1:]):
                raise ValueError(
                    f"{file}, line {number}: {len(names)} answers, each -1 or 1, must follow the picture's name: "
                    "put the official list there instead."
                )
            rows[one] = len(rows)
            table.extend(map(code.__getitem__, words[1:]))
    if not rows:
        raise ValueError(f"{file} holds no rows: put the official list there instead.")
    table = np.frombuffer(table, np.int8).reshape(len(rows), len(names))
    return rows, _signs(table[:, [names.index(name) for name in CELEBA]], file)


@functools.lru_cache(maxsize=2)
def _read_partition(file: Path, _state: int) -> dict[str, int]:
    parts = {}
    for number, words in enumerate(_lines(file), 1):
        if not words or (number == 1 and words[-1] == "partition"):
            continue
        one = _id(words[0], file, number)
        if len(words) != 2 or words[1] not in ("0", "1", "2"):
            raise ValueError(
                f"{file}, line {number}: a picture's name and 0, 1 or 2 must stand there: put the official list there "
                "instead."
            )
        parts.setdefault(one, int(words[1]))
    return parts


def _id(name: str, file: Path, number: int) -> str:
    if not (match := PICTURE.search(name)):
        raise ValueError(f"{file}, line {number}: {name!r} is no name of a picture, such as 000001.jpg.")
    return match[1]


def _signs(table: np.ndarray, file: Path) -> np.ndarray:
    """The one place where encodings are made one: -1/+1, 0/1 and False/True become -1/+1, int8."""
    values = set(np.unique(table).tolist())
    if not (values <= {-1, 1} or values <= {0, 1}):
        raise ValueError(f"{file}: answers must be -1 and 1, 0 and 1, or False and True, and not {sorted(values)}.")
    return np.where(np.asarray(table) > 0, 1, -1).astype(np.int8)


# The pictures


def _has(found: Found, split: str) -> bool:
    """Whether there is a picture of that partition, without reading one."""
    if ready(_name(found, split), RECIPE):
        return True
    if found.parquets:
        return any(_part(file) == split for file in found.parquets)
    with ExitStack() as stack:
        return not _index(found, stack)[0].keys().isdisjoint(_partition(found, split))


def _rows(found: Found, split: str):
    """(how many at most, (id, pixels, answers) one by one)."""
    rows = _parquet_rows(found, split) if found.parquets else _picture_rows(found, split)
    return next(rows), rows


def _index(found: Found, stack: ExitStack) -> tuple[dict[str, list], list[str]]:
    """{id: where it is found, in order}, and the zips that cannot be read. What is open is closed by `stack`."""
    index, broken = {}, []
    for shelf in found.pictures:
        if shelf.is_dir():
            with os.scandir(shelf) as inside:
                members = sorted(one.name for one in inside if one.is_file())
        else:
            try:
                members = stack.enter_context(zipfile.ZipFile(shelf))
            except BROKEN:
                broken.append(f"{shelf.name} is damaged or no zip")
                continue
            shelf, members = members, members.infolist()
        for member in members:
            if match := PICTURE.search(getattr(member, "filename", member)):
                index.setdefault(match[1], []).append((shelf, member))
    return index, broken


def _picture_rows(found: Found, split: str):
    """First the count, then the rows, then one warning that names what was left out."""
    rows, table = _attributes(found)
    with ExitStack() as stack:
        index, broken = _index(found, stack)
        wanted = sorted(index.keys() & set(_partition(found, split)))
        known = [one for one in wanted if one in rows]
        yield len(known)
        unusable = []
        for one in known:
            face, why = _face(index[one])
            if face is None:
                unusable.append(why)
            else:
                yield one, face, table[rows[one]]
        strangers = index.keys() - _read_partition(found.partition, found.partition.stat().st_mtime_ns).keys()
    _report(split, broken, unusable, sorted(set(wanted) - set(known)), sorted(strangers))


def _report(split: str, broken: list, unusable: list, unanswered: list, strangers: list) -> None:
    def some(which):
        return f"{', '.join(which[:3])}{', ...' if which[3:] else ''}"

    said = [
        *broken,
        *([f"{len(unusable):,} could not be used ({some(unusable)})"] if unusable else []),
        *([f"{len(unanswered):,} without a row in the list of attributes ({some(unanswered)})"] if unanswered else []),
        *([f"{len(strangers):,} without a row in the list of partitions ({some(strangers)})"] if strangers else []),
    ]
    if said:
        warnings.warn(f"CelebA, {split}: some pictures were left out: {'; '.join(said)}.", stacklevel=2)


def _face(places: list) -> tuple[np.ndarray | None, str]:
    """The best of the pictures found under one id, (3, 64, 64) uint8; where none can be used None, and why."""
    best, why = None, ""
    for shelf, member in places:
        try:
            face, as_it_is = decode(_bytes(shelf, member))
        except BROKEN as error:
            where = Path(shelf.filename if isinstance(shelf, zipfile.ZipFile) else shelf).name
            why = why or f"{getattr(member, 'filename', member)} in {where}: {_words(error)}"
            continue
        if as_it_is:
            return face, ""
        best = face if best is None else best
    return best, why


def _words(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "no JPEG or PNG"
    return str(error) or type(error).__name__


def _bytes(shelf, member) -> bytes:
    """One file of a folder or a zip; a zip's announced sizes may lie, so no more than MOST is ever unpacked."""
    with shelf.open(member) if isinstance(shelf, zipfile.ZipFile) else open(shelf / member, "rb") as content:
        data = content.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError("too large for a picture")
    return data


def decode(data: bytes) -> tuple[np.ndarray, bool]:
    """(the face (3, 64, 64) uint8, whether it was 64x64 already).

    Raises:
        ValueError, OSError, SyntaxError: for anything but a whole JPEG or PNG of 64x64 or 178x218.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as picture:
        if picture.size not in ((SIDE, SIDE), ALIGNED):
            raise ValueError(f"{picture.width}x{picture.height}, not 178x218 or 64x64")
        as_it_is, face = picture.size == (SIDE, SIDE), picture.convert("RGB")
    if not as_it_is:
        # Cut first: `resize(box=...)` would let the filter look at rows beyond the square.
        face = face.crop(SQUARE).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(face).transpose(2, 0, 1), as_it_is


# A mirror's parquet files


def _part(file: Path) -> str:
    return PARTS[PARQUET.search(str(file))[1]]


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            "parquet files of CelebA are read with pyarrow, which is missing: pip install pyarrow."
        ) from error
    return pyarrow.parquet


def _parquet_rows(found: Found, split: str, pictures: bool = True):
    """With `pictures` first the count, then (id, pixels, answers); without, (id, None, answers) only."""
    pq, files = _pyarrow(), [file for file in found.parquets if _part(file) == split]
    image = ["image"] if pictures else ["image.path"]
    unusable, number = [], 0
    try:
        if pictures:
            yield sum(pq.read_metadata(file).num_rows for file in files)
        for file in files:
            with pq.ParquetFile(file, memory_map=True) as table:
                if lost := [name for name in ("image", *CELEBA) if name not in table.schema_arrow.names]:
                    raise ValueError(f"{file.name} has no column {lost[0]}")
                if "bytes" not in str(table.schema_arrow.field("image").type):
                    raise ValueError(f"{file.name} keeps its pictures in another way than the mirrors")
                for batch in table.iter_batches(batch_size=64, columns=[*image, *CELEBA.names]):
                    conds = _signs(np.stack([np.asarray(batch.column(name)) for name in CELEBA], 1), file)
                    for cond, told in zip(conds, batch.column("image").to_pylist(), strict=True):
                        match = PICTURE.search((told or {}).get("path") or "")
                        one, number = match[1] if match else f"{split}-{number:06d}", number + 1
                        if not pictures:
                            yield one, None, cond
                            continue
                        try:
                            yield one, decode((told or {}).get("bytes") or b"")[0], cond
                        except BROKEN as error:
                            unusable.append(f"{one} in {file.name}: {_words(error)}")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"a parquet file of CelebA ({split}) cannot be read ({error}): fetch it anew.") from error
    _report(split, [], unusable, [], [])


# Downloading

HOME = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
HUB = "https://huggingface.co"
MIRRORS = ("tpremoli/CelebA-attrs", "flwrlabs/celeba")
ZIP, LISTS_SIZE = ("img_align_celeba.zip", 1_443_490_838), 29_557_412
TOO_MUCH = 3_000_000_000  # bytes that nobody expects who was told 1.4 GB
NOTICE = (
    "CelebA is for non-commercial research only and may not be passed on (Liu et al. 2015, {home}). {size} come from {host}: "
    "about {minutes}. Preparing the faces takes some minutes more, once, and up to 2.5 GB. Interrupt when you like: the next "
    "call goes on from there."
)


def download(split: str) -> None:
    """Fetch what of CelebA is not at hand for this partition; nothing where it is.

    The official files come first, checked by the md5 sums that torchvision knows, then a mirror's parquet files, checked by
    the sha256 that the hub lists. Licence, size and minutes are told before the first byte.

    Raises:
        DownloadError: one sentence with every address tried, and where to put the files by hand.
    """
    folder, split = cache_dir() / "celeba", "test" if split == "score" else split
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    with FileLock(folder / "download.lock"):
        if _enough(split):
            return
        for bring in (_official, *(functools.partial(_mirror, name) for name in MIRRORS)):
            try:
                return bring(folder, split)
            except DownloadError as error:
                if isinstance(error.__cause__, OSError):
                    raise  # what cannot be written from one address cannot be written from the next
                # `fetch` tells its own way out, here there is one for all.
                reasons.append(str(error).partition(": put the file by hand")[0])
    names = ", ".join([ZIP[0], *(f"{name}.txt" for name in LISTS.values())])
    raise DownloadError(
        f"CelebA could not be downloaded: {'; '.join(reasons)}: fetch {names} by hand from {HOME} and put them into {folder}."
    )


def _enough(split: str) -> bool:
    return any(_has(way, split) for way in find().ways)


def _official(folder: Path, split: str) -> None:
    from torchvision.datasets import CelebA

    known = {name: (DRIVE.format(one), md5) for one, md5, name in CelebA.file_list}
    found = find()
    # Which partition the pictures at hand belong to is not known before the lists are.
    lists_only = bool(found.pictures and found.missing)
    _tell(LISTS_SIZE if lists_only else ZIP[1], DRIVE)
    for name in found.missing:
        url, md5 = known[name]
        fetch(url, folder / name, md5=md5)
    if not _enough(split):
        if lists_only:
            _tell(ZIP[1], DRIVE)
        url, md5 = known[ZIP[0]]
        fetch(url, folder / ZIP[0], md5=md5, size=ZIP[1])


def _mirror(name: str, folder: Path, split: str) -> None:
    """All files of a mirror into a folder that shows itself only when the last one is there."""
    try:
        _pyarrow()
    except ValueError as error:
        raise DownloadError(f"{name} was not tried, for {error}".rstrip(".")) from None
    listing, shown = f"{HUB}/api/datasets/{name}/tree/main?recursive=true", folder / name.replace("/", "--")
    beside = folder / f".{shown.name}"
    beside.mkdir(exist_ok=True)
    (beside / "files.json").unlink(missing_ok=True)
    files = _listed(fetch(listing, beside / "files.json", progress=False), listing)
    size = sum(size for _, size, _ in files.values())
    if size > TOO_MUCH:
        raise DownloadError(f"{listing} [lists {size / 1e9:.1f} GB, more than one would fetch unasked]")
    _tell(size, HUB)
    for local, (path, size, sha256) in files.items():
        fetch(f"{HUB}/datasets/{name}/resolve/main/{quote(path)}", beside / local, sha256=sha256, size=size)
    shutil.rmtree(shown, ignore_errors=True)
    os.replace(beside, shown)


def _listed(file: Path, url: str) -> dict[str, tuple[str, int, str]]:
    """{name here: (path there, bytes, sha256)} of each parquet file of a partition, as the hub lists them."""
    files = {}
    try:
        for path, one in sorted({str(one["path"]): one for one in json.loads(file.read_bytes())}.items()):
            if match := PARQUET.search(path):
                # The folder may tell the partition, so it goes into the name.
                local = f"{match[1]}-{len(files):05d}.parquet"
                files[local] = (path, int(one["size"]), str(one["lfs"]["oid"]).removeprefix("sha256:"))
    except (ValueError, KeyError, TypeError):
        raise DownloadError(f"{url} [gives no list of files]") from None
    if {PARTS[PARQUET.search(path)[1]] for path, _, _ in files.values()} != set(SPLITS):
        raise DownloadError(f"{url} [does not list the three partitions]")
    return files


def _tell(size: int, url: str) -> None:
    fast, slow = (max(1, round(size * 8 / 1e6 / rate / 60)) for rate in (100, 10))
    minutes = f"{fast} minutes at 100 Mbit/s, {slow} at 10" if slow > 1 else "1 minute at 100 Mbit/s or at 10"
    amount = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    tqdm.write(NOTICE.format(home=HOME, size=amount, host=urlsplit(url).netloc, minutes=minutes))
