"""A small folder in CelebA's official layout, with synthetic faces: `python tests/make_celeba.py DIR [COUNT]`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from facelab.attributes import CELEBA, SYNTHETIC
from facelab.data.synthetic_faces import render_many, sample_attributes

SHARES = (0.7, 0.85)  # up to which share of the ids an image belongs to train, to valid; the others to test


def official_folder(folder, count=200, seed=0) -> Path:
    """Write `img_align_celeba/000001.jpg` ... (178x218) and the two lists in their official form; return the folder.

    The square (0, 20, 178, 198) of each image is a synthetic face. Attributes that these do not have are -1; the first two images
    have all and none, so that every attribute occurs with both values.
    """
    folder = Path(folder)
    (folder / "img_align_celeba").mkdir(parents=True, exist_ok=True)
    conds, shown = np.full((count, len(CELEBA)), -1, np.int8), sample_attributes(count, seed)
    conds[:, [CELEBA.index(name) for name in SYNTHETIC]] = shown.numpy()
    conds[0], conds[1] = 1, -1
    for number, face in enumerate(render_many(shown, range(seed, seed + count)).numpy(), 1):
        square = Image.fromarray(face.transpose(1, 2, 0)).resize((178, 178), Image.Resampling.BICUBIC)
        pixels = np.pad(np.asarray(square), ((20, 20), (0, 0), (0, 0)), mode="edge")
        Image.fromarray(pixels).save(folder / "img_align_celeba" / f"{number:06d}.jpg", quality=95, subsampling=0)
    rows = [f"{number:06d}.jpg " + " ".join(f"{value:2d}" for value in cond) for number, cond in enumerate(conds, 1)]
    _write(folder / "list_attr_celeba.txt", [str(count), " ".join(CELEBA) + " ", *rows])
    parts = [sum(number > share * count for share in SHARES) for number in range(1, count + 1)]
    _write(folder / "list_eval_partition.txt", [f"{number:06d}.jpg {part}" for number, part in enumerate(parts, 1)])
    return folder


def _write(file: Path, lines: list[str]) -> None:
    file.write_bytes("".join(line + "\r\n" for line in lines).encode())  # the official lists end their lines so


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=200)
    args = parser.parse_args()
    print(official_folder(args.folder, args.count))
