"""CelebA from every form it lies about in, from damaged ones, and from servers that misbehave. No real face is needed."""

import errno
import functools
import hashlib
import io
import json
import os
import re
import shutil
import sys
import threading
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from make_celeba import official_folder
from PIL import Image
from test_download import HTML, Server
from torchvision.datasets import CelebA as torchvision_celeba

from facelab import celeba as official
from facelab import data
from facelab.attributes import CELEBA
from facelab.data import celeba, celeba_answers
from facelab.download import DownloadError

COUNT = 40
TRAIN, VALID, TEST = 28, 6, 6


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return official_folder(tmp_path_factory.mktemp("made") / "celeba", COUNT)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the small official folder, which FACELAB_DATA names, and an empty cache."""
    shutil.copytree(made, tmp_path / "data" / "celeba")
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "celeba"


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    """No data, and an empty cache; gives the cache."""
    monkeypatch.delenv("FACELAB_DATA", raising=False)
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ids(split):
    return official.prepare(split)[0].ids.tolist()


def pictures_of(folder):
    return sorted((folder / "img_align_celeba").glob("*.jpg"))


def reduced(file):
    """The face of an aligned picture by the recipe's own words."""
    square = Image.open(file).convert("RGB").crop((0, 20, 178, 198))
    return np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)


def jpeg(size=(64, 64), colour=(200, 120, 40)):
    content = io.BytesIO()
    Image.new("RGB", size, colour).save(content, "JPEG", quality=95)
    return content.getvalue()


def into_zip(folder, name="img_align_celeba.zip", inside="img_align_celeba/{}", remove=True):
    with zipfile.ZipFile(folder / name, "w") as packed:
        for file in pictures_of(folder):
            packed.write(file, inside.format(file.name))
    if remove:
        shutil.rmtree(folder / "img_align_celeba")


def rewrite(file, change):
    file.write_text(change(file.read_text().splitlines()), newline="")


# The official form


def test_the_three_partitions_with_their_answers(folder):
    lines = (folder / "list_attr_celeba.txt").read_text().split("\n")[2:]
    told = {line.split()[0][:6]: [int(word) for word in line.split()[1:]] for line in lines if line.strip()}
    seen = []
    for split, count in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        faces, mine = celeba(split), ids(split)
        assert len(faces) == len(mine) == count and faces.shape == (3, 64, 64) and faces.attributes == CELEBA
        assert faces.conds.tolist() == [told[one] for one in mine]
        for one, image in zip(mine, faces.images.numpy(), strict=True):
            assert np.array_equal(image, reduced(folder / f"img_align_celeba/{one}.jpg"))
        assert f"{count} faces of CelebA, {split} (official files in FACELAB_DATA)" == faces.source
        seen += mine
    assert seen == [f"{number:06d}" for number in range(1, COUNT + 1)], "by id, train before valid before test"


def test_the_crop_brings_the_square_back(tmp_path, monkeypatch):
    """A white square on black, at the recipe's place: no black line may remain, which a crop a row off would leave."""
    picture = Image.new("RGB", (178, 218))
    picture.paste((255, 255, 255), (0, 20, 178, 198))
    content = io.BytesIO()
    picture.save(content, "PNG")
    face, as_it_is = official.decode(content.getvalue())
    assert not as_it_is and face.shape == (3, 64, 64) and face.min() == 255


def test_the_reduction_is_antialiased():
    stripes = np.zeros((218, 178, 3), np.uint8)
    stripes[:, ::2] = 255
    content = io.BytesIO()
    Image.fromarray(stripes).save(content, "PNG")
    face, _ = official.decode(content.getvalue())
    assert abs(face[:, :, 4:-4].astype(float) - 127.5).max() < 20


@pytest.mark.parametrize("inside", ["", "celeba", "one/celeba"])
def test_it_is_found_at_the_top_one_folder_down_and_two(folder, inside):
    """torchvision is given a root and keeps all in root/celeba; some name that folder itself."""
    root = folder.parent.parent / "elsewhere"
    shutil.copytree(folder, root / inside)
    os.environ["FACELAB_DATA"] = str(root)
    if inside == "one/celeba":
        with pytest.raises(ValueError, match="no pictures of CelebA|is missing"):
            celeba("valid")
    else:
        assert len(celeba("valid")) == VALID


@pytest.mark.parametrize("inside", ["{}", "celeba64/{}", "a/b/c/{}", "../../{}", "..\\{}", "/{}"])
def test_a_zip_under_any_folder_name_and_nothing_is_unpacked(folder, inside):
    before = celeba("valid")
    into_zip(folder, "anything.zip", inside)
    files = sorted(folder.parent.parent.rglob("*"))
    faces = celeba("valid")
    assert torch.equal(faces.images, before.images) and torch.equal(faces.conds, before.conds)
    assert set(folder.parent.parent.rglob("*")) - set(files) == set(
        (folder.parent.parent / "cache/prepared").glob(f"celeba-{official._stamp(official.find())}-valid*")
    )


def test_pictures_of_64x64_are_taken_as_they_are_and_any_subset_will_do(folder):
    shutil.rmtree(folder / "img_align_celeba")
    with zipfile.ZipFile(folder / "some.zip", "w") as packed:
        for number in (3, 1, 40, 29, 17):
            packed.writestr(f"celeba64/{number:06d}.jpg", jpeg(colour=(number, 0, 255)))
        packed.writestr("celeba64/notes.txt", "000002.jpg")
        packed.writestr("nested.zip", (folder / "list_attr_celeba.txt").read_bytes())
    faces = celeba("train")
    assert ids("train") == ["000001", "000003", "000017"]
    exact = np.asarray(Image.open(io.BytesIO(jpeg(colour=(17, 0, 255))))).transpose(2, 0, 1)
    assert np.array_equal(faces.images[2].numpy(), exact)
    assert ids("valid") == ["000029"] and ids("test") == ["000040"]


@pytest.mark.parametrize("name", ["a.zip", "z.zip"])
def test_an_id_found_twice_counts_once_and_the_small_picture_wins(folder, name):
    into_zip(folder, "m.zip")
    with zipfile.ZipFile(folder / name, "w") as packed:
        packed.writestr("x/000029.jpg", jpeg())
        packed.writestr("y/000029.jpg", jpeg(colour=(0, 0, 0)))
    faces = celeba("valid")
    assert ids("valid") == [f"{number:06d}" for number in range(29, 35)]
    assert faces.images[0, :, 30, 30].tolist() == pytest.approx([200, 120, 40], abs=3)


def test_of_two_large_ones_the_first_name_wins_and_a_damaged_one_gives_way(folder):
    for name, colour in (("b.zip", (0, 0, 200)), ("c.zip", (0, 200, 0))):
        with zipfile.ZipFile(folder / name, "w") as packed:
            packed.writestr("000029.jpg", jpeg((178, 218), colour))
            packed.writestr("000030.jpg", jpeg((178, 218), colour) if name == "c.zip" else b"\xff\xd8 broken")
    shutil.rmtree(folder / "img_align_celeba")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        faces = celeba("valid")
    assert faces.images[0, :, 9, 9].tolist() == pytest.approx([0, 0, 200], abs=3)
    assert faces.images[1, :, 9, 9].tolist() == pytest.approx([0, 200, 0], abs=3)


def test_gray_and_png_pictures_become_three_channels(folder):
    file = folder / "img_align_celeba/000029.jpg"
    Image.open(file).convert("L").save(file.with_suffix(".png"))
    file.unlink()
    assert celeba("valid").images[0].float().var(0).max() == 0


def test_nothing_is_written_into_facelab_data(folder):
    before = {file: file.stat().st_mtime_ns for file in folder.parent.rglob("*")}
    celeba("valid")
    assert {file: file.stat().st_mtime_ns for file in folder.parent.rglob("*")} == before


# The lists


def csv(lines):
    return "\n".join(",".join(line.split()) for line in lines)


@pytest.mark.parametrize("form", ["txt", "lf", "zip", "txt.zip", "csv", "no count", "bom"])
def test_lists_in_every_form(folder, form):
    before = celeba("valid")
    for name in ("list_attr_celeba", "list_eval_partition"):
        file = folder / f"{name}.txt"
        if form.endswith("zip"):
            with zipfile.ZipFile(folder / f"{name}.{form}", "w", zipfile.ZIP_DEFLATED) as packed:
                packed.write(file, file.name)
        elif form == "csv":
            lines = file.read_text().splitlines()
            lines = ["image_id " + lines[1], *lines[2:]] if "attr" in name else ["image_id partition", *lines]
            (folder / f"{name}.csv").write_text(csv(lines))
        elif form == "bom":
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        elif form == "lf":
            file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n").rstrip())
        elif form == "no count" and "attr" in name:
            rewrite(file, lambda lines: "\n".join(lines[1:]))
        if form.endswith(("zip", "csv")):
            file.unlink()
    faces = celeba("valid")
    assert torch.equal(faces.conds, before.conds) and torch.equal(faces.images, before.images)


@pytest.mark.parametrize("encoding", [{"-1": "0"}, {}])
def test_another_order_of_columns_and_another_encoding_end_in_ours(folder, encoding):
    before = celeba_answers("train")[1]

    def change(lines):
        table = [line.split() for line in lines[1:]]
        order = np.random.default_rng(0).permutation(len(CELEBA))
        names = " ".join(table[0][i] for i in order)
        rows = [[one, *(encoding.get(cells[i], cells[i]) for i in order)] for one, *cells in table[1:]]
        return "\n".join([lines[0], names, *map(" ".join, rows)])

    rewrite(folder / "list_attr_celeba.txt", change)
    assert torch.equal(celeba_answers("train")[1], before) and set(before.unique().tolist()) == {-1, 1}


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("list_attr_celeba.txt", "Smiling", "Grinning", r"line 2: each of CelebA's 40 names.*Smiling does not"),
        ("list_attr_celeba.txt", "Smiling", "Male", r"line 2: .*Male, Smiling do not"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg", r"line 5: 40 answers, each -1 or 1"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  7", r"line 5: 40 answers, each -1 or 1"),
        ("list_attr_celeba.txt", "000003.jpg -1", "000003.jpg  0", r"answers must be -1 and 1.*\[-1, 0, 1\]"),
        ("list_attr_celeba.txt", "000003.jpg", "three.jpg", r"line 5: 'three.jpg' is no name of a picture"),
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg 3", r"line 3: a picture's name and 0, 1 or 2"),
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg", r"line 3: a picture's name and 0, 1 or 2"),
        ("list_eval_partition.txt", "000003.jpg 0", "x 0", r"line 3: 'x' is no name of a picture"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(folder, file, old, new, says):
    # In the third row of answers the first is made -1, so that the replacements above find it.
    rewrite(folder / "list_attr_celeba.txt", lambda lines: re.sub(r"(000003\.jpg) +-?1", r"\1 -1", "\r\n".join(lines)))
    content = (folder / file).read_text()
    assert old in content
    (folder / file).write_text(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{file}.*{says}") as told:
        celeba("train")
    assert "\n" not in str(told.value)
    assert not list((folder.parent.parent / "cache").rglob("*.np[yz]*")), "nothing half-prepared"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\xff\xfe\x00"])
def test_a_list_that_cannot_be_read_is_named(folder, content):
    (folder / "list_attr_celeba.zip").write_bytes(content)
    (folder / "list_attr_celeba.txt").unlink()
    with pytest.raises(ValueError, match=r"list_attr_celeba\.zip cannot be read"):
        celeba("train")
    (folder / "list_attr_celeba.txt").write_bytes(b"\xff\xfe\x00\xd8" if content else b"")
    with pytest.raises(ValueError, match=r"list_attr_celeba\.txt (cannot be read|holds no rows)"):
        celeba("train")


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt"])
def test_a_missing_list_is_named_with_the_way_out(folder, name):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} \(or \.zip\) is missing.*download=True"):
        celeba("train")
    with pytest.raises(ValueError, match=rf"{name} of CelebA not at hand"):
        celeba_answers("train")
    with pytest.raises(ValueError, match=name):
        data.faces("train")


def test_answers_need_no_picture(folder):
    shutil.rmtree(folder / "img_align_celeba")
    names, conds = celeba_answers("valid")
    assert names.tolist() == [f"{number:06d}" for number in range(29, 35)]
    assert conds.shape == (VALID, 40) and conds.dtype == torch.int8 and set(conds.unique().tolist()) <= {-1, 1}
    assert len(celeba_answers("train")[0]) == TRAIN and len(celeba_answers("test")[0]) == TEST
    with pytest.raises(ValueError, match="'train', 'valid' or 'test', got 'score'"):
        celeba_answers("score")


# What is left out


def test_what_cannot_be_used_is_named_in_one_warning(folder):
    pictures = folder / "img_align_celeba"
    good = (pictures / "000001.jpg").read_bytes()
    for number, content in {
        1: b"<html>no picture</html>",
        2: good[: len(good) // 2],
        3: jpeg((178, 217)),
        4: b"\0" * (official.MOST + 1),
        5: b"",
    }.items():
        (pictures / f"{number:06d}.jpg").write_bytes(content)
    (pictures / "900000.jpg").write_bytes(good)
    rewrite(
        folder / "list_attr_celeba.txt", lambda lines: "\n".join(line for line in lines if "000007.jpg" not in line)
    )
    with zipfile.ZipFile(folder / "cut.zip", "w") as packed:
        packed.writestr("000009.jpg", jpeg())
    (folder / "cut.zip").write_bytes((folder / "cut.zip").read_bytes()[:-100])
    with pytest.warns(UserWarning) as told:
        faces = celeba("train")
    assert len(faces) == TRAIN - 6 and ids("train")[:2] == ["000006", "000008"]
    (said,) = {str(one.message) for one in told}
    for words in (
        "cut.zip is damaged or no zip",
        "5 could not be used (000001.jpg in img_align_celeba: no JPEG or PNG, 000002.jpg in img_align_celeba: ",
        "178x217, not 178x218 or 64x64, ...)",
        "1 without a row in the list of attributes (000007)",
        "1 without a row in the list of partitions (900000)",
    ):
        assert words in said
    assert torch.equal(faces.conds, celeba_answers("train")[1][5:]), "the others keep their own answers"


def test_zip_bombs_flipped_bytes_and_locked_members_are_left_out(folder):
    into_zip(folder, remove=True)
    bomb, file = b"\0" * (20 << 20), folder / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("000029.jpg", bomb)
        packed.writestr("000030.jpg", jpeg())
    with zipfile.ZipFile(folder / "img_align_celeba.zip") as packed:
        rest = {name: packed.read(name) for name in packed.namelist()}
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as packed:
        for name, content in rest.items():
            if "000029" not in name and "000030" not in name:
                packed.writestr(name, content)
    content = bytearray(file.read_bytes())
    content[content.index(b"000030.jpg") + 60] ^= 1
    file.write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"2 could not be used \(000029.jpg in a.zip: too large.*000030.jpg in a.zip: Bad CRC"
    ):
        assert ids("valid") == ["000031", "000032", "000033", "000034"]


@pytest.mark.parametrize("told", [64 << 20, 100])
def test_however_much_would_come_out_no_more_than_the_limit_is_unpacked(folder, told):
    """64 MB of zeros: once by their size, once where the table of contents lies and says 100 bytes."""
    file, size = folder / "a.zip", 64 << 20
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("000029.jpg", b"\0" * size)
    file.write_bytes(file.read_bytes().replace(size.to_bytes(4, "little"), told.to_bytes(4, "little")))
    shutil.move(folder / "img_align_celeba/000029.jpg", folder / "away")
    celeba("test")  # whatever is needed once
    tracemalloc.start()
    with pytest.warns(UserWarning, match="1 could not be used .000029.jpg in a.zip"):
        assert len(ids("valid")) == VALID - 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_zip_that_was_cut_short_is_named(folder):
    into_zip(folder)
    file = folder / "img_align_celeba.zip"
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(
        ValueError, match=r"none of the 0 .*train partition .img_align_celeba.zip is damaged or no zip.*download=True"
    ):
        celeba("train")


def test_pictures_none_of_which_can_be_used(folder):
    for file in pictures_of(folder):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not one picture"), pytest.warns(UserWarning, match="28 could not be used"):
        celeba("train")
    assert not list((folder.parent.parent / "cache").rglob("*.np*"))


# The cache


def test_it_is_prepared_once_and_only_for_exactly_these_files(folder, monkeypatch):
    decode, decoded = official.decode, []
    monkeypatch.setattr(official, "decode", lambda content: decoded.append(1) or decode(content))
    first = celeba("valid")
    assert len(decoded) == VALID
    again = celeba("valid")
    assert len(decoded) == VALID and again.key == first.key and torch.equal(again.images, first.images)
    os.utime(folder / "img_align_celeba/000001.jpg")
    assert celeba("valid").key == first.key and len(decoded) == 2 * VALID, "touched files are looked at again"
    shutil.copytree(folder, folder.parent.parent / "other/celeba")
    (folder.parent.parent / "other/celeba/img_align_celeba/000029.jpg").unlink()
    monkeypatch.setenv("FACELAB_DATA", str(folder.parent.parent / "other"))
    other = celeba("valid")
    assert len(other) == VALID - 1 and other.key != first.key, "another folder does not find it"


@pytest.mark.parametrize("damage", ["pixels", "cut", "answers", "recipe"])
def test_a_damaged_cache_or_one_of_another_recipe_is_prepared_anew_and_that_is_said(folder, monkeypatch, damage):
    first = celeba("valid").images.clone()
    (pixels,), (answers,) = (
        list((folder.parent.parent / "cache/prepared").glob(f"*{end}")) for end in (".npy", ".npz")
    )
    if damage == "recipe":
        monkeypatch.setattr(official, "RECIPE", "2")
    else:
        file = answers if damage == "answers" else pixels
        content = bytearray(file.read_bytes())
        content[-5000 if damage == "pixels" else 200] ^= 1
        file.write_bytes(content[:-1] if damage == "cut" else content)
    says = "by another recipe" if damage == "recipe" else "but is damaged"
    with pytest.warns(UserWarning, match=f"CelebA, valid had been prepared {says}: prepared anew"):
        faces = celeba("valid")
    assert torch.equal(faces.images, first)
    left = {file.name for file in (folder.parent.parent / "cache/prepared").glob("*.np*")}
    assert left == {f"{pixels.name[:-5]}{2 if damage == 'recipe' else 1}.{end}" for end in ("npy", "npz")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        celeba("valid")


def test_an_interrupted_preparation_leaves_nothing_behind(folder, monkeypatch):
    decode, left = official.decode, [3]

    def interrupted(content):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return decode(content)

    monkeypatch.setattr(official, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        celeba("valid")
    assert not list((folder.parent.parent / "cache").rglob("*.np*"))
    assert len(celeba("valid")) == VALID


def test_a_full_disk_is_told_in_one_sentence(folder, monkeypatch):
    def full(out):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("facelab.prepared._settle", full)
    with pytest.raises(OSError, match=r"could not be prepared in .*No space left.*FACELAB_CACHE") as told:
        celeba("valid")
    assert "\n" not in str(told.value) and not list((folder.parent.parent / "cache").rglob("*.np*"))


def test_two_that_ask_at_once_prepare_once(folder, monkeypatch):
    decode, decoded, got = official.decode, [], []

    def slow(content):
        decoded.append(1)
        time.sleep(0.02)
        return decode(content)

    monkeypatch.setattr(official, "decode", slow)
    threads = [threading.Thread(target=lambda: got.append(celeba("valid").key)) for _ in range(2)]
    [one.start() for one in threads], [one.join() for one in threads]
    assert len(decoded) == VALID and len(set(got)) == 1 and len(got) == 2


def test_the_bar_says_what_is_prepared(folder, capsys):
    celeba("valid")
    assert "preparing CelebA, valid" in capsys.readouterr().err


def anonymous():
    """MB of memory that no file stands behind."""
    return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux's /proc only")
def test_pixels_stay_on_the_disk(nothing):
    from facelab.prepared import prepared

    count, cond, pixels = 8_000, np.ones(40, np.int8), np.arange(3 * 64 * 64).astype(np.uint8).reshape(3, 64, 64)
    held = prepared("many", "1", lambda: (count, ((str(i), pixels, cond) for i in range(count))), "many")
    faces = data.Pictures(held.images, held.conds, CELEBA, "many", held.key)
    some = faces.take(torch.randperm(count)).where(Smiling=True)
    some[:50]  # whatever is needed once
    before = anonymous()
    for start in range(0, count, 50):
        some[start : start + 50]
    assert len(some) == count and len(some.key) == 16
    assert anonymous() - before < 50, "98 MB of pixels must not come into memory"


# Which data


def test_score_is_test_where_there_are_test_pictures_else_valid(folder):
    assert celeba("score").source.startswith(f"{TEST} faces of CelebA, test (")
    assert celeba("score").key == celeba("test").key
    for number in range(35, 41):
        (folder / f"img_align_celeba/{number:06d}.jpg").unlink()
    scored = celeba("score")
    assert scored.source.startswith(f"{VALID} faces of CelebA, valid for want of test pictures (")
    assert scored.key == celeba("valid").key
    with pytest.raises(
        ValueError, match="none of the 34 pictures of CelebA at hand is of the test partition: .*download=True"
    ):
        celeba("test")
    with pytest.raises(ValueError, match="'train', 'valid', 'test' or 'score', got 'Train'"):
        celeba("Train")


def test_without_celeba_one_sentence_says_what_to_do(nothing):
    with pytest.raises(ValueError, match=r"no pictures of CelebA in FACELAB_DATA.*download=True.*1\.4 GB") as told:
        celeba()
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="list_attr_celeba.txt and list_eval_partition.txt of CelebA not at hand"):
        celeba_answers("train")
    assert data.which_faces() == "drawn" and data.at_hand()["faces"].startswith("drawn, for no CelebA")


def test_faces_are_celebas_where_it_is_at_hand(folder):
    assert data.which_faces() == "celeba" and data.at_hand()["faces"] == "CelebA, official files in FACELAB_DATA"
    assert data.faces("valid").key == celeba("valid").key
    assert len(data.faces("valid", drawn=3)) == len(celeba("valid"))
    assert str(folder.parent) not in data.faces("valid").source + repr(celeba("valid")) + str(data.at_hand())


def test_a_zip_of_other_pictures_is_not_taken_for_celeba(nothing, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data/holiday.zip", "w") as packed:
        packed.writestr("IMG_2231.jpg", jpeg())
        for name in ("0000010.jpg", "x000010.jpg", "IMG_000010.jpg", "000010.jpg/list.txt"):
            packed.writestr(name, jpeg())
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    assert data.which_faces() == "drawn"


# A mirror's parquet files

ENCODINGS = {"signs": lambda cond: cond, "numbers": lambda cond: (cond + 1) // 2, "booleans": lambda cond: cond > 0}


def parquet(made, split, encoding="signs", path="{}.jpg", png=False, change=None):
    """The content of one file as the mirrors have them: a column `image` of bytes and path, and one for each name."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lists = official.Found(made / "list_attr_celeba.txt", made / "list_eval_partition.txt", (), ())
    rows, table = official._attributes(lists)
    mine = official._partition(lists, split)
    images = []
    for one in mine:
        content = (made / f"img_align_celeba/{one}.jpg").read_bytes()
        if png:
            again = io.BytesIO()
            Image.open(io.BytesIO(content)).save(again, "PNG")
            content = again.getvalue()
        images.append({"bytes": content, "path": path and path.format(one)})
    columns = {"image": images, "celeb_id": list(range(len(mine)))}
    conds = ENCODINGS[encoding](table[[rows[one] for one in mine]])
    # In another order than ours, as a mirror may.
    columns |= {name: conds[:, CELEBA.index(name)].tolist() for name in reversed(CELEBA.names)}
    columns = change(columns) if change else columns
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out, row_group_size=7)
    return out.getvalue()


def mirror(made, folder, names, **how):
    folder.mkdir(parents=True, exist_ok=True)
    for split, name in names.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(parquet(made, split, **how))


HUGGING = {
    split: f"{name}-00000-of-00001-abc.parquet"
    for split, name in zip(official.SPLITS, ("train", "validation", "test"), strict=True)
}
CONVERTED = {split: f"{split}/0000.parquet" for split in official.SPLITS}


@pytest.mark.parametrize(
    ("names", "how"),
    [
        (HUGGING, {"encoding": "signs", "path": None}),
        (HUGGING, {"encoding": "numbers"}),
        (CONVERTED, {"encoding": "booleans", "png": True, "path": "img/{}.png"}),
    ],
)
def test_every_mirror_gives_what_the_official_files_give(folder, made, monkeypatch, names, how):
    want = {split: celeba(split) for split in official.SPLITS}
    told = {split: celeba_answers(split) for split in official.SPLITS}
    mirror(made, folder.parent.parent / "mirror/celeba", names, **how)
    monkeypatch.setenv("FACELAB_DATA", str(folder.parent.parent / "mirror"))
    for split in official.SPLITS:
        faces = celeba(split)
        assert torch.equal(faces.images, want[split].images) and torch.equal(faces.conds, want[split].conds)
        assert faces.source.endswith(f", {split} (a mirror's parquet files in FACELAB_DATA)")
        names, conds = celeba_answers(split)
        assert torch.equal(conds, told[split][1])
        expected = (
            told[split][0].tolist() if how.get("path", "yes") else [f"{split}-{i:06d}" for i in range(len(conds))]
        )
        assert names.tolist() == ids(split) == expected
    assert celeba("score").source.startswith(f"{TEST} faces of CelebA, test")


def test_pictures_with_their_lists_come_before_a_mirror_and_a_mirror_before_pictures_without(folder, made):
    mirror(made, folder.parent / "mirror", HUGGING)
    assert "official files" in celeba("valid").source
    (folder / "list_eval_partition.txt").unlink()
    assert "a mirror's" in celeba("valid").source


def test_of_two_mirrors_only_the_first_counts(folder, made):
    shutil.rmtree(folder)
    mirror(made, folder.parent / "a", HUGGING)
    mirror(made, folder.parent / "b", CONVERTED)
    assert len(celeba("train")) == TRAIN


def test_a_mirror_without_test_pictures(folder, made):
    shutil.rmtree(folder)
    mirror(made, folder.parent / "a", {"valid": HUGGING["valid"]})
    assert "valid for want of test" in celeba("score").source
    with pytest.raises(ValueError, match="none of the 0 pictures of CelebA at hand is of the test partition"):
        celeba("test")


def drop(name):
    return lambda columns: {column: values for column, values in columns.items() if column != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop("Smiling"), "has no column Smiling"),
        (drop("image"), "has no column image"),
        (lambda columns: columns | {"Smiling": [3] * VALID}, r"answers must be -1 and 1.*3\]"),
        (lambda columns: columns | {"Smiling": [0] * VALID}, r"answers must be -1 and 1.*\[-1, 0, 1\]"),
        (lambda columns: columns | {"image": [b"bytes"] * VALID}, "another way than the mirrors"),
    ],
)
def test_a_mirror_of_another_form_is_told(folder, made, change, says):
    shutil.rmtree(folder)
    mirror(made, folder.parent / "a", {"valid": HUGGING["valid"]}, change=change)
    with pytest.raises(ValueError, match=rf"parquet file of CelebA \(valid\) cannot be read.*{says}"):
        celeba("valid")


def test_a_damaged_parquet_file_is_told(folder, made):
    shutil.rmtree(folder)
    mirror(made, folder.parent / "a", {"valid": HUGGING["valid"]})
    file = folder.parent / "a" / HUGGING["valid"]
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot be read"):
        celeba("valid")


def test_a_damaged_picture_in_a_mirror_is_named(folder, made):
    shutil.rmtree(folder)

    def spoil(columns):
        columns["image"][1]["bytes"] = b"nothing"
        columns["image"][2] = None
        return columns

    mirror(made, folder.parent / "a", {"valid": HUGGING["valid"]}, change=spoil)
    with pytest.warns(UserWarning, match=r"2 could not be used \(000030 in validation.*no JPEG or PNG"):
        faces = celeba("valid")
    assert ids("valid") == ["000029", "000032", "000033", "000034"] and len(faces) == 4


def test_without_pyarrow_one_sentence_with_the_command(folder, made, monkeypatch):
    shutil.rmtree(folder)
    mirror(made, folder.parent / "a", HUGGING)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        celeba("valid")


# Downloading


class Hub(Server):
    """Drive and the hub in one, on this machine; `drive[name]` and `hub[path]` are behaviours or bytes to be sent."""

    def __init__(self, made):
        super().__init__()
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as inside:
            for file in pictures_of(made):
                inside.write(file, f"img_align_celeba/{file.name}")
        lists = {f"{name}.txt": (made / f"{name}.txt").read_bytes() for name in official.LISTS.values()}
        self.files = {"img_align_celeba.zip": packed.getvalue(), **lists}
        for name, content in self.files.items():
            self.drive(name, serve(content))

    def drive(self, name, behaviour):
        self.behaviours[f"/drive?id={name}&confirm=t"] = behaviour

    def mirror(self, repo, files, listing=None, serving=None):
        rows = [{"type": "directory", "path": "data", "size": 0}] + [
            {"path": path, "size": len(content), "lfs": {"oid": hashlib.sha256(content).hexdigest()}}
            for path, content in files.items()
        ]
        listing = json.dumps(rows).encode() if listing is None else listing
        self.behaviours[f"/api/datasets/{repo}/tree/main?recursive=true"] = serve(listing, "application/json")
        for path, content in files.items():
            address = f"/datasets/{repo}/resolve/main/{path.replace('+', '%2B')}"
            self.behaviours[address] = (serving or {}).get(path) or serve(content)

    @property
    def asked(self):
        return [path for path, _ in self.seen]


def serve(content, kind="application/octet-stream", upto=None, pause=0.0):
    """Honours Range; `upto` cuts every answer there, `pause` waits between pieces."""

    def behave(handler):
        start = int((handler.asked or "bytes=0-")[6:-1])
        sent = content[start:] if upto is None else content[start:upto]
        place = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if handler.asked else {}
        told = {"Content-Type": kind, "Content-Length": len(content) - start, **place}
        handler.send(b"" if pause else sent, 206 if handler.asked else 200, **told)
        for piece in range(0, len(sent) if pause else 0, len(sent) // 4 + 1):
            handler.wfile.write(sent[piece : piece + len(sent) // 4 + 1])
            time.sleep(pause)

    return behave


def answer(status, body=HTML, kind="text/html"):
    return lambda handler: handler.send(body, status, **{"Content-Type": kind})


def stall(handler):
    handler.send(b"", **{"Content-Length": 1000})
    handler.server.release.wait(5)


@pytest.fixture
def server(made, nothing, monkeypatch):
    server = Hub(made)
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(official, "DRIVE", base + "/drive?id={}&confirm=t")
    monkeypatch.setattr(official, "HUB", base)
    monkeypatch.setattr(official, "MIRRORS", ("first/mirror", "second/mirror"))
    known = [(name, hashlib.md5(content).hexdigest(), name) for name, content in server.files.items()]
    monkeypatch.setattr(torchvision_celeba, "file_list", known)
    monkeypatch.setattr(official, "ZIP", ("img_align_celeba.zip", len(server.files["img_align_celeba.zip"])))
    monkeypatch.setattr(official, "fetch", functools.partial(official.fetch, timeout=0.4))
    for repo in official.MIRRORS:
        server.behaviours[f"/api/datasets/{repo}/tree/main?recursive=true"] = answer(404)
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def mirrored(server, made):
    files = {f"data/{name}": parquet(made, split) for split, name in HUGGING.items()}
    server.mirror("first/mirror", files)
    return files


def fails(server, cache):
    """The one sentence with every address tried and the way by hand; nothing looks as if it were there."""
    with pytest.raises(DownloadError) as caught:
        server.seen.clear()
        celeba("train", download=True)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and said.count("by hand") == 1
    assert official.HOME in said and str(cache / "celeba") in said
    assert all(name in said for name in ("img_align_celeba.zip", "list_attr_celeba.txt", "list_eval_partition.txt"))
    # Lists and files of a mirror may have come as they should, so that nobody needs to hear of them.
    tried = [path for path in server.asked if not re.search("id=list|first/mirror", path)]
    assert all(f"http://127.0.0.1:{server.server_port}{path}" in said for path in tried)
    assert data.which_faces() == "drawn"
    return said


def test_the_official_files_are_fetched_once_after_the_licence_was_told(server, nothing, monkeypatch):
    told = []
    monkeypatch.setattr(official.tqdm, "write", lambda words: told.append((words, len(server.seen))))
    faces = celeba("train", download=True)
    assert len(faces) == TRAIN and faces.source.endswith("(official files in the cache)")
    ((words, asked),) = told
    assert asked == 0, "before the first byte"
    assert "non-commercial research only" in words and "127.0.0.1" in words and "minutes" in words
    assert len(server.seen) == 3
    celeba("train", download=True), celeba("test", download=True), celeba("score", download=True), celeba("valid")
    assert len(server.seen) == 3 and len(told) == 1
    assert {file.name for file in (nothing / "celeba").glob("*") if "lock" not in file.name} == set(server.files)


def test_the_notice_tells_size_and_minutes(capsys):
    official._tell(1_443_490_838, official.DRIVE)
    said = capsys.readouterr().out
    assert "1.4 GB come from drive.usercontent.google.com: about 2 minutes at 100 Mbit/s, 19 at 10." in said
    assert "non-commercial research only and may not be passed on" in said
    official._tell(30_000_000, official.HUB)
    assert "30 MB come from huggingface.co: about 1 minute at 100 Mbit/s or at 10." in capsys.readouterr().out


def test_the_addresses_are_torchvisions():
    known = {name: one for one, _, name in torchvision_celeba.file_list}
    assert official.DRIVE.format(known[official.ZIP[0]]).startswith(
        "https://drive.usercontent.google.com/download?id=0B7EVK8r0v71pZ"
    )
    assert {f"{name}.txt" for name in official.LISTS.values()} <= known.keys()


def test_a_cut_download_goes_on_where_it_was_cut(server, nothing):
    content = server.files["img_align_celeba.zip"]
    server.drive("img_align_celeba.zip", serve(content, upto=len(content) // 2))
    said = fails(server, nothing)
    assert "id=img_align_celeba.zip&confirm=t [connection cut" in said and "second/mirror" in said and "404" in said
    server.drive("img_align_celeba.zip", serve(content))
    server.seen.clear()
    assert len(celeba("train", download=True)) == TRAIN
    assert server.seen == [("/drive?id=img_align_celeba.zip&confirm=t", f"bytes={len(content) // 2}-")]


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (answer(200), "an HTML page (a quota or login page?)"),
        (answer(200, HTML, "application/octet-stream"), "an HTML page (a quota or login page?)|announces"),
        (answer(403), "403 Forbidden"),
        (answer(404), "404 Not Found"),
        (answer(429), "429 Too Many Requests"),
        (answer(200, b"x" * 999, "application/zip"), "announces 999 bytes"),
        (stall, "announces 1000 bytes|silent for 0.4 s"),
    ],
)
def test_what_drive_gives_in_place_of_the_file_is_told_and_a_mirror_takes_over(
    server, nothing, mirrored, behaviour, says
):
    server.drive("img_align_celeba.zip", behaviour)
    broken = dict(server.behaviours)
    del server.behaviours["/api/datasets/first/mirror/tree/main?recursive=true"]
    server.behaviours["/api/datasets/first/mirror/tree/main?recursive=true"] = answer(503)
    said = fails(server, nothing)
    assert any(one in said for one in says.split("|")) and "503" in said and "404" in said
    server.behaviours = broken
    faces = celeba("train", download=True)
    assert len(faces) == TRAIN and faces.source.endswith("(a mirror's parquet files in the cache)")
    asked = len(server.seen)
    assert len(celeba("score", download=True)) == TEST and len(server.seen) == asked


def test_wrong_bytes_of_the_right_size_are_refused(server, nothing):
    content = server.files["img_align_celeba.zip"]
    server.drive("img_align_celeba.zip", serve(content[::-1]))
    assert "wrong checksum" in fails(server, nothing)
    server.drive("list_attr_celeba.txt", serve(b"other"))
    shutil.rmtree(nothing)
    assert "list_attr_celeba.txt" in fails(server, nothing)


def test_a_throttled_server_is_waited_for(server):
    server.drive("img_align_celeba.zip", serve(server.files["img_align_celeba.zip"], pause=0.15))
    assert len(celeba("valid", download=True)) == VALID


def test_a_silent_server_is_not(server, nothing):
    def silent(handler):
        handler.server.release.wait(5)

    server.drive("list_attr_celeba.txt", silent)
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"list_attr_celeba\.txt could not .*no answer in 0\.4 s"):
        celeba("train", download=True)
    assert time.monotonic() - start < 5


def test_only_what_is_missing_is_fetched(server, made, tmp_path, monkeypatch):
    """Pictures without their lists: the lists are 30 MB, and the notice says so."""
    shutil.copytree(made / "img_align_celeba", tmp_path / "data/img_align_celeba")
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    told = []
    monkeypatch.setattr(official.tqdm, "write", told.append)
    faces = celeba("train", download=True)
    assert len(faces) == TRAIN and faces.source.endswith("(official files in FACELAB_DATA)")
    assert sorted(server.asked) == [f"/drive?id={name}.txt&confirm=t" for name in sorted(official.LISTS.values())]
    assert len(told) == 1 and "30 MB come" in told[0]


def test_a_subset_at_hand_is_completed_only_for_a_partition_it_lacks(server, folder):
    for number in range(35, 41):
        (folder / f"img_align_celeba/{number:06d}.jpg").unlink()
    assert len(celeba("train", download=True)) == TRAIN and not server.seen
    faces = celeba("test", download=True)
    assert len(faces) == TEST and server.asked == ["/drive?id=img_align_celeba.zip&confirm=t"]
    assert "FACELAB_DATA and the cache" in faces.source


def test_a_subset_at_hand_is_completed_from_a_mirror_too(server, folder, mirrored):
    for number in range(35, 41):
        (folder / f"img_align_celeba/{number:06d}.jpg").unlink()
    server.drive("img_align_celeba.zip", answer(429))
    assert (
        celeba("test", download=True).source == f"{TEST} faces of CelebA, test (a mirror's parquet files in the cache)"
    )
    assert "official files in FACELAB_DATA" in celeba("valid").source and "test (a mirror's" in celeba("score").source


def test_a_mirror_that_stops_midway_is_not_taken_for_whole_and_goes_on(server, nothing, mirrored):
    server.drive("list_attr_celeba.txt", answer(429))
    last = max(mirrored)
    server.mirror("first/mirror", mirrored, serving={last: answer(503)})
    assert "503" in fails(server, nothing)
    server.mirror("first/mirror", mirrored)
    server.seen.clear()
    assert len(celeba("valid", download=True)) == VALID
    assert [path for path in server.asked if "resolve" in path] == [f"/datasets/first/mirror/resolve/main/{last}"]


def test_a_mirror_that_has_changed_meanwhile_is_asked_for_its_list_again(server, nothing, made, mirrored):
    server.drive("list_attr_celeba.txt", answer(429))
    server.mirror("first/mirror", mirrored, serving={max(mirrored): answer(503)})
    fails(server, nothing)
    server.mirror("first/mirror", {f"new/{name}": parquet(made, split, "numbers") for split, name in HUGGING.items()})
    for path in mirrored:
        del server.behaviours[f"/datasets/first/mirror/resolve/main/{path}"]
    assert len(celeba("valid", download=True)) == VALID


def test_the_second_mirror_with_folders_that_need_quoting(server, made):
    server.drive("list_attr_celeba.txt", answer(429))
    files = {f"img_align+identity+attr/{name}": parquet(made, split, "booleans") for split, name in CONVERTED.items()}
    server.mirror("second/mirror", files)
    assert len(celeba("train", download=True)) == TRAIN


def huge(rows):
    rows[-1]["size"] = 12_000_000_000
    return rows


@pytest.mark.parametrize(
    ("listing", "says"),
    [
        (b"not json", "gives no list of files"),
        (b'{"error": "gone"}', "gives no list of files"),
        (b'[{"path": "data/train-0.parquet", "size": 3}]', "gives no list of files"),
        (b"[]", "does not list the three partitions"),
        ("no test", "does not list the three partitions"),
        ("huge", "12.0 GB, more than one would fetch unasked"),
    ],
)
def test_a_mirror_whose_list_is_of_no_use_is_told(server, nothing, mirrored, listing, says):
    rows = [{"path": path, "size": len(one), "lfs": {"oid": "0" * 64}} for path, one in mirrored.items()]
    rows = {"no test": rows[:2], "huge": huge(rows)}.get(listing, listing)
    server.mirror("first/mirror", mirrored, listing=rows if isinstance(rows, bytes) else json.dumps(rows).encode())
    server.drive("list_attr_celeba.txt", answer(429))
    assert says in fails(server, nothing)
    assert not [path for path in server.asked if "resolve" in path]


def test_a_mirror_that_lies_about_its_bytes_is_refused(server, nothing, mirrored):
    first = min(mirrored)
    server.mirror("first/mirror", mirrored, serving={first: serve(mirrored[first][::-1])})
    server.drive("list_attr_celeba.txt", answer(429))
    assert "wrong checksum" in fails(server, nothing)


def test_without_pyarrow_no_mirror_is_tried(server, nothing, mirrored, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    server.drive("list_attr_celeba.txt", answer(429))
    said = fails(server, nothing)
    assert "first/mirror was not tried, for parquet files of CelebA are read with pyarrow" in said and "429" in said
    assert not [path for path in server.asked if "api" in path]


def test_a_full_disk_ends_it_at_once(server, nothing, mirrored, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("facelab.download.os.fsync", full)
    with pytest.raises(DownloadError, match="could not be written .*free some space"):
        celeba("train", download=True)
    assert len(server.seen) == 1


def test_under_pytest_no_address_but_this_machine_is_asked(nothing, monkeypatch):
    monkeypatch.setattr("facelab.download._ask", lambda *_: pytest.fail("asked"))
    with pytest.raises(
        DownloadError, match="downloads are refused under pytest.*drive.usercontent|drive.usercontent.*refused"
    ):
        celeba("train", download=True)
    assert data.which_faces() == "drawn"


# The real one


def real(name):
    folders = [Path(one) for one in os.environ.get("FACELAB_DATA", "").split(os.pathsep) if one]
    found = [file for folder in folders for file in (folder / name, folder / "celeba" / name) if file.is_file()]
    return found[0] if found else pytest.skip(f"no {name} in FACELAB_DATA")


def test_the_real_originals_become_the_real_small_ones():
    """The same ids, aligned and as somebody reduced them: equal to the bit once ours have been through the same JPEG."""
    aligned, small = real("img_align_celeba_sample.zip"), real("celeba64_train.zip")
    with zipfile.ZipFile(aligned) as originals, zipfile.ZipFile(small) as ready:
        members = {name[-10:]: name for name in ready.namelist()}
        both = [name for name in originals.namelist() if name[-10:] in members][:60]
        assert len(both) > 30
        for name in both:
            mine, _ = official.decode(originals.read(name))
            theirs, as_it_is = official.decode(ready.read(members[name[-10:]]))
            assert as_it_is and abs(mine.astype(int) - theirs).mean() < 4
            again = io.BytesIO()
            Image.fromarray(mine.transpose(1, 2, 0)).save(again, "JPEG", quality=95, subsampling=0)
            assert np.array_equal(official.decode(again.getvalue())[0], theirs)


def test_the_real_lists():
    real("list_attr_celeba.zip"), real("list_eval_partition.zip")
    every = {split: celeba_answers(split) for split in official.SPLITS}
    assert [len(names) for names, _ in every.values()] == [162_770, 19_867, 19_962]
    conds = torch.cat([conds for _, conds in every.values()])
    for name, rate in {"Male": 0.417, "Smiling": 0.482, "Eyeglasses": 0.065, "Bald": 0.022}.items():
        assert (conds[:, CELEBA.index(name)] > 0).float().mean().item() == pytest.approx(rate, abs=5e-4)
    assert every["valid"][0][0] == "162771" and (every["valid"][1][:, CELEBA.index("Bald")] > 0).sum() == 411
