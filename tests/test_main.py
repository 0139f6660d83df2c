"""`python -m facelab sample` and `check`."""

import json

import pytest
import torch
from PIL import Image

from facelab import CELEBA, DIGITS, Denoiser, device, pretrained
from facelab import __main__ as command
from facelab.pretrained import Pretrained


@pytest.fixture
def conditions(monkeypatch):
    """The condition of every call of a network that stands in for the shipped weights."""
    seen = []

    class Spy(Denoiser):
        def forward(self, x_t, t, cond, return_prediction=False):
            seen.append(cond)
            return super().forward(x_t, t, cond, return_prediction)

    def load(name, device=None):
        known = {"mnist": ((1, 28, 28), DIGITS), "celeba": ((3, 64, 64), CELEBA)}
        if name not in known:
            raise ValueError(f"there are no weights {name!r}.")
        shape, attributes = known[name]
        options = {"block_out_channels": (32,), "attention": (False,), "patch_size": 4}
        net = Spy(shape, attributes.names, attributes.exclusive, **options).eval()
        return Pretrained(name, attributes, shape, {"sha256": "5" * 64, "parameters": 1}, net)

    monkeypatch.setattr(pretrained, "load", load)
    return seen


def test_attributes_are_one_condition_for_all_images(conditions, tmp_path, capsys):
    out = tmp_path / "faces.png"
    words = ["Smiling=1", "Eyeglasses=-1", "Young", "Male=no", "Bald=0.5", "--count", "2", "--steps", "1"]
    assert command.main(["sample", *words, "--out", str(out)]) == 0
    cond, unconditional = conditions[0].chunk(2)
    wanted = CELEBA.encode(Smiling=True, Eyeglasses=False, Young=True, Male=False, Bald=0.5)
    assert torch.equal(cond, wanted.expand(2, -1)) and not unconditional.any()
    assert "2 of Bald 0.5, no Eyeglasses" in capsys.readouterr().out
    with Image.open(out) as image:
        record = json.loads(image.text["facelab"])
        assert image.mode == "RGB" and "not a photograph" in image.text["Description"]
    assert record["cond"]["Eyeglasses"] == -1 and record["sha256"] == "5" * 64
    how = {"model": "celeba", "guidance_scale": 2.0, "steps": 1, "sampler": "AdamsBashforth", "seed": 0}
    assert record.items() >= how.items()


def test_each_digit_is_a_row(conditions, tmp_path):
    out = tmp_path / "digits.png"
    assert command.main(["sample", "3", "8", "--count", "2", "--guidance-scale", "1", "--out", str(out)]) == 0
    assert conditions[0].argmax(1).tolist() == [3, 3, 8, 8] and len(conditions) == 10, "ten steps"
    with Image.open(out) as image:
        assert image.mode == "L" and image.size == (2 * (2 + 2 * 30), 2 * (2 + 2 * 30))


@pytest.mark.parametrize(
    "words, message",
    [
        (["Smilling=1"], "did you mean 'Smiling'"),
        (["Smiling=very"], "write an attribute as Smiling=1"),
        (["Smiling=2"], "from -1"),
        (["Smiling=1", "7"], "no attribute '7'"),
        (["Smiling", "--out", "faces.jpg"], "must end in .png"),
        (["Smiling", "--model", "cats"], "no weights 'cats'"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(conditions, words, message, tmp_path, capsys):
    out = tmp_path / "faces.png"
    assert command.main(["sample", "--steps", "1", "--count", "1", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not out.exists()


def test_check_lists_machine_data_weights_and_what_to_mend(conditions, monkeypatch, tmp_path, capsys):
    assert command.main(["check"]) == 0
    text = capsys.readouterr().out
    words = "machine", "float32", "versions", "preset", "cache", "MNIST", "faces", "weights   celeba: 1 parameters"
    assert [word for word in words if word not in text] == []
    monkeypatch.setattr(command, "version", lambda name: "8.1.9")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").write_text('Repository = "https://github.com/YOUR_ACCOUNT/facelab"')
    monkeypatch.setattr(device, "ROOT", tmp_path)
    command.check()
    text = capsys.readouterr().out
    assert "YOUR_ACCOUNT is a placeholder" in text and "8.1.9 shows nothing in VS Code" in text
