"""`make.py hub`: each folder holds what an upload needs, and the example of its model card runs."""

import re
import sys
from pathlib import Path

import pytest

from facelab.denoiser import Denoiser
from facelab.pretrained import load, names

ROOT = Path(__file__).resolve().parents[1]
DENOISERS = [name for name in names() if load(name).denoiser]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "notebooks"))
    import make

    out = tmp_path_factory.mktemp("hub")
    assert make.hub(out) == 0
    return out


def test_every_denoiser_has_a_folder(folder):
    assert sorted(path.name for path in folder.iterdir()) == DENOISERS


@pytest.mark.parametrize("name", DENOISERS)
def test_the_example_of_the_model_card_runs(folder, name):
    card = (folder / name / "README.md").read_text("utf-8")
    header = re.match(r"---\nlibrary_name: facelab\n.*?license: (\w+)\n.*?---\n", card, re.DOTALL)
    assert header[1] == ("mit" if load(name).card["license"] == "MIT" else "other")
    assert load(name).card["command"] in card
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = code.replace(f"path/to/{name}", str(folder / name)).replace("steps=20", "steps=1")
    shown = {}
    exec(code.replace("show(sample", "images = (sample").replace(", 4)\n", ")\n"), shown)
    assert shown["images"].shape == (4, *load(name).shape)
    assert Denoiser.from_pretrained(folder / name).settings() == load(name).denoiser.settings()
