"""CelebA from every layout gives the same images and labels; damaged files, the download, label statistics."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from make_celeba import official_folder
from oracle import encoded, serving
from PIL import Image
from torch.testing import assert_close

from facelab.attributes import CELEBA, Attributes
from facelab.data import celeba as module
from facelab.data.celeba import SPLITS, celeba, celeba_available, celeba_conds, label_statistics, to_64
from facelab.data.synthetic_faces import default_face_name, default_faces

COUNTS = {"train": 28, "valid": 6, "test": 6}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return official_folder(tmp_path_factory.mktemp("made") / "celeba", 40)


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the small official folder, which FACELAB_DATA names, and an empty cache."""
    shutil.copytree(made, tmp_path / "data" / "celeba")
    monkeypatch.setenv("FACELAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FACELAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data" / "celeba"


def kaggle(folder):
    """A nested folder, and lists as CSV with a header."""
    shutil.move(folder / "img_align_celeba", folder / "inner")
    (folder / "img_align_celeba").mkdir()
    shutil.move(folder / "inner", folder / "img_align_celeba/img_align_celeba")
    for name, header in (("list_attr_celeba", None), ("list_eval_partition", "image_id partition")):
        lines = (folder / f"{name}.txt").read_text().splitlines()
        lines = [header, *lines] if header else [f"image_id {lines[1]}", *lines[2:]]
        (folder / f"{name}.csv").write_text("\n".join(",".join(line.split()) for line in lines))
        (folder / f"{name}.txt").unlink()


def zips(folder):
    """The images in a zip, under another folder's name, and each list in a zip."""
    with zipfile.ZipFile(folder / "celeba_images.zip", "w") as packed:
        for file in (folder / "img_align_celeba").iterdir():
            packed.write(file, f"some/folder/{file.name}")
    shutil.rmtree(folder / "img_align_celeba")
    for name in ("list_attr_celeba", "list_eval_partition"):
        with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(folder / f"{name}.txt", f"{name}.txt")
        (folder / f"{name}.txt").unlink()


def small(folder):
    """Images that are 64x64 already, as PNG, so that they stay the same."""
    with zipfile.ZipFile(folder / "celeba64_train.zip", "w") as packed:
        for file in (folder / "img_align_celeba").iterdir():
            image = Image.fromarray(to_64(file.read_bytes()).transpose(1, 2, 0))
            packed.writestr(f"celeba64/{file.stem}.png", encoded(image))
    shutil.rmtree(folder / "img_align_celeba")


def zero_one(folder):
    """0 and 1 instead of -1 and 1, and the columns in another order."""
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()
    table = [[*line.split()] for line in lines[1:]]
    table = [table[0][::-1], *([row[0], *(cell.replace("-1", "0") for cell in row[:0:-1])] for row in table[1:])]
    (folder / "list_attr_celeba.txt").write_text("\n".join([lines[0], *map(" ".join, table)]))


def parquet(labels):
    def convert(folder, splits=SPLITS):
        """The mirrors' form: image {bytes, path} and a column for each attribute, in another order than ours."""
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        (folder / "mirror/data").mkdir(parents=True)
        for split in splits:
            ids, conds = celeba_conds(split)
            files = [folder / f"img_align_celeba/{one:06d}.jpg" for one in ids]
            columns = {"image": [{"bytes": file.read_bytes(), "path": None} for file in files]}
            columns |= {name: labels(conds[:, CELEBA.index(name)]).tolist() for name in reversed(CELEBA.names)}
            name = {"valid": "validation"}.get(split, split)
            pq.write_table(pa.table(columns), folder / f"mirror/data/{name}-00000-of-00001.parquet", row_group_size=7)
        for one in (*folder.glob("list*"), folder / "img_align_celeba"):
            shutil.rmtree(one) if one.is_dir() else one.unlink()

    return convert


LAYOUTS = {"kaggle": kaggle, "zips": zips, "64x64": small, "0 and 1": zero_one}
LAYOUTS |= {"parquet -1/1": parquet(lambda x: x), "parquet bool": parquet(lambda x: x > 0)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_images_and_labels(folder, layout):
    official = {split: celeba(split) for split in SPLITS}
    LAYOUTS[layout](folder)
    for split, expected in official.items():
        found = celeba(split)
        assert torch.equal(found.conds, expected.conds) and set(found.conds.unique().tolist()) == {-1, 1}
        assert torch.equal(found.images, expected.images) and found.key == expected.key
        assert torch.equal(celeba_conds(split)[1], expected.conds)
    assert celeba_available() == ("parquet files" if "parquet" in layout else "official files")


def test_the_official_splits_with_their_labels_and_images(folder):
    lines = (folder / "list_attr_celeba.txt").read_text().splitlines()[2:]
    labels = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines}
    names = iter(sorted(labels))
    for split, count in COUNTS.items():
        faces = celeba(split)
        assert (len(faces), faces.shape, faces.attributes, faces.name) == (count, (3, 64, 64), CELEBA, "celeba")
        assert faces.source == f"{count} images of CelebA, {split} (official files)"
        for image, cond in zip(faces.images.numpy(), faces.conds.tolist(), strict=True):
            name = next(names)
            square = Image.open(folder / "img_align_celeba" / name).convert("RGB").crop((0, 20, 178, 198))
            expected = np.asarray(square.resize((64, 64), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
            assert np.array_equal(image, expected) and cond == labels[name]


def test_a_partial_folder_is_enough_and_score_is_valid_without_test_images(folder):
    assert celeba("score").key == celeba("test").key
    for number in (1, 29, *range(35, 41)):
        (folder / f"img_align_celeba/{number:06d}.jpg").unlink()
    assert len(celeba("train")) == 27 and len(celeba("score")) == len(celeba("valid")) == 5
    with pytest.raises(ValueError, match=r"no images of CelebA \(test\).*download=True.*FACELAB_DATA names"):
        celeba("test")
    with pytest.raises(ValueError, match="split is train, valid, test or score.*'Train'"):
        celeba("Train")


def test_the_crop_has_no_row_of_the_border_and_the_reduction_is_antialiased():
    image = Image.new("RGB", (178, 218))
    image.paste((255, 255, 255), (0, 20, 178, 198))
    assert to_64(encoded(image)).min() == 255
    stripes = np.zeros((218, 178, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(to_64(encoded(Image.fromarray(stripes)))[:, :, 4:-4].astype(float) - 127.5).max() < 20


def test_default_faces_are_celebas_where_it_is_available(folder):
    assert default_face_name() == "celeba" and default_faces("valid").key == celeba("valid").key
    assert str(folder.parent) not in default_faces("valid").source, "a source shows no path of this machine"


def test_without_celeba_one_sentence_says_what_to_do(no_data):
    assert celeba_available() == "" and default_face_name() == "synthetic"
    for ask in (celeba, celeba_conds):
        with pytest.raises(ValueError, match=r"no images of CelebA.*download=True.*put img_align_celeba\.zip") as error:
            ask("train")
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="CelebA.*FACELAB_OFFLINE"):
        celeba("train", download=True)


def test_images_are_prepared_once_for_exactly_these_files(folder, monkeypatch):
    files = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    first = celeba("valid")
    monkeypatch.setattr(module, "to_64", lambda content: pytest.fail("prepared again"))
    assert celeba("valid").key == first.key
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == files, "FACELAB_DATA stays unchanged"


def test_unreadable_images_are_left_out_and_named(folder):
    (folder / "img_align_celeba/000029.jpg").write_bytes(b"no image")
    (folder / "img_align_celeba/000030.jpg").write_bytes(encoded(Image.new("RGB", (50, 60))))
    with pytest.warns(UserWarning, match=r"2 images of CelebA cannot be read \(000029: .*; 000030: 50x60 pixels"):
        faces = celeba("valid")
    assert torch.equal(faces.conds, celeba_conds("valid")[1][2:])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("list_attr_celeba.txt", b"", "list_attr_celeba.txt cannot be read as CelebA's official list"),
        ("list_attr_celeba.txt", b"2\nSmiling Male\n000001.jpg -1 1\n", "must name CelebA's 40 attributes"),
        ("list_eval_partition.txt", b"000001.jpg 0\n000002.jpg\n", "list_eval_partition.txt cannot.*row 2"),
        ("list_eval_partition.txt", b"000001.jpg 0\n000002.jpg x\n", "list_eval_partition.txt cannot.*'x'"),
        ("img_align_celeba.zip", b"PK broken", "img_align_celeba.zip is damaged"),
        ("train-00000-of-00001.parquet", b"PAR1 broken", "train-00000-of-00001.parquet is damaged"),
    ],
)
def test_a_damaged_file_is_named_in_one_sentence(folder, name, content, says):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        celeba("train")


def test_labels_of_another_encoding_are_refused(folder):
    text = (folder / "list_attr_celeba.txt").read_text()
    (folder / "list_attr_celeba.txt").write_text(text.replace("000003.jpg -1", "000003.jpg  0"))
    with pytest.raises(ValueError, match=r"labels must be -1 and 1, or 0 and 1, got \[-1, 0, 1\]"):
        celeba_conds("train")


@pytest.fixture
def hub(made, tmp_path, monkeypatch):
    """A local server that answers as the Hugging Face hub does."""
    source = tmp_path / "source"
    shutil.copytree(made, source)
    with monkeypatch.context() as patch:
        patch.setenv("FACELAB_DATA", str(source))
        parquet(lambda x: x)(source)
    files = {f"data/{file.name}": file.read_bytes() for file in sorted(source.rglob("*.parquet"))}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            content = files.get(path.partition("/resolve/main/")[2])
            if "/resolve/" not in path:
                rows = [{"type": "file", "path": name, "size": 1, "oid": "0" * 40} for name in files]
                about = {"id": "x", "sha": "a" * 40, "siblings": [{"rfilename": name} for name in files]}
                content = json.dumps(rows if "/tree/" in path else about).encode()
            self.server.requests.append((self.command, path))
            self.send_response(404 if content is None else 200)
            size, tag = len(content or b""), f'"{hash(content) & 0xFFFFFFFF:x}"'
            for header in (("Content-Length", str(size)), ("X-Repo-Commit", "a" * 40), ("ETag", tag)):
                self.send_header(*header)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET

    with serving(Hub) as server:
        server.requests, server.files = [], files
        yield server


def fetch(server, cache, size="20k", times=1):
    """celeba(download=True) in another process, which may go online: (its output, what it wrote to stderr)."""
    code = f"from facelab import celeba\nfor _ in range({times}): print(celeba('valid', download=True, size='{size}'))"
    without = ("FACELAB_OFFLINE", "PYTEST_CURRENT_TEST", "FACELAB_DATA")
    env = {name: value for name, value in os.environ.items() if name not in without}
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
    env |= {"FACELAB_CACHE": str(cache), "HF_HOME": str(cache / "hf")}
    root = Path(module.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True, timeout=300)
    return done.stdout, done.stderr


@pytest.mark.parametrize(("size", "amount"), [("20k", "176 MB"), ("full", "1.4 GB")])
def test_the_download_states_licence_and_size_first_and_is_made_once(hub, tmp_path, size, amount):
    out, err = fetch(hub, tmp_path / "cache", size, times=2)
    lines = out.splitlines()
    assert "non-commercial research only" in lines[0] and amount in lines[0] and "minutes" in lines[0], err
    assert len(lines) == 3 and all("6 images of CelebA, valid (parquet files)" in line for line in lines[1:])
    fetched = [path.rpartition("/main/")[2] for command, path in hub.requests if command == "GET" and "resolve" in path]
    assert sorted(fetched) == sorted(hub.files) and (tmp_path / f"cache/celeba-{size}").is_dir()


def test_a_failed_download_says_what_was_tried_and_how_to_do_it_by_hand(hub, tmp_path):
    hub.files["data/train-00001-of-00002.parquet"] = None  # listed, but not there
    _, err = fetch(hub, tmp_path / "cache")
    last = err.strip().splitlines()[-1]
    assert "CelebA could not be downloaded from the hub, tpremoli/CelebA-attrs-20k" in last, err
    assert "put img_align_celeba.zip, list_attr_celeba.txt and list_eval_partition.txt" in last
    assert not (tmp_path / "cache/celeba-20k").exists()


NAMES = Attributes(["Bald", "Bangs", "Smiling"])
LABELS = torch.tensor([[1, 1, 1], [1, -1, 1], [-1, -1, 1], [-1, -1, 1]], dtype=torch.int8)


def test_label_statistics():
    found = label_statistics(LABELS, NAMES)
    assert_close(found.frequencies, torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64))
    assert found.correlations[2].tolist() == [0, 0, 0], "an attribute that never varies correlates with nothing"
    assert found.count == 4 and found.names == NAMES.names
    labels = torch.where(torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) > 0.5, 1, -1)
    got = label_statistics(labels, CELEBA).correlations
    assert_close(got, torch.from_numpy(np.corrcoef(labels.T.numpy())), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match=r"labels \(N, 3\)"):
        label_statistics(torch.ones(4, 2), NAMES)


# The real files, where FACELAB_DATA has them
def real(name):
    folders = [Path(one) for one in os.environ.get("FACELAB_DATA", "").split(os.pathsep) if one]
    found = [file for folder in folders for file in (folder / name, folder / "celeba" / name) if file.is_file()]
    return found[0] if found else pytest.skip(f"no {name} in FACELAB_DATA")


def test_the_real_originals_become_the_real_64x64_images():
    """Of the same ids, the aligned originals and the 64x64 files: equal to the bit after the same JPEG compression."""
    aligned, ready = real("img_align_celeba_sample.zip"), real("celeba64_train.zip")
    with zipfile.ZipFile(aligned) as originals, zipfile.ZipFile(ready) as reduced:
        members = {name[-10:]: name for name in reduced.namelist()}
        both = [name for name in originals.namelist() if name[-10:] in members][:60]
        assert len(both) > 30
        for name in both:
            ours = Image.fromarray(to_64(originals.read(name)).transpose(1, 2, 0))
            assert np.array_equal(
                to_64(encoded(ours, "JPEG", quality=95, subsampling=0)), to_64(reduced.read(members[name[-10:]]))
            )


def test_the_real_lists():
    real("list_attr_celeba.zip"), real("list_eval_partition.zip")
    every = {split: celeba_conds(split) for split in SPLITS}
    assert [len(ids) for ids, _ in every.values()] == [162_770, 19_867, 19_962]
    conds = torch.cat([conds for _, conds in every.values()])
    for name, frequency in {"Male": 0.417, "Smiling": 0.482, "Eyeglasses": 0.065, "Bald": 0.022}.items():
        assert (conds[:, CELEBA.index(name)] > 0).float().mean().item() == pytest.approx(frequency, abs=5e-4)
    assert every["valid"][0][0] == 162_771 and (every["valid"][1][:, CELEBA.index("Bald")] > 0).sum() == 411
