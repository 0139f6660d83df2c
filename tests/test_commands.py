"""The terminal: what `python -m facelab sample` understands, and what it says where it does not."""

import pytest
import torch
from PIL import Image

from facelab import pretrained
from facelab.__main__ import main, wish_of
from facelab.attributes import CELEBA, DIGITS
from facelab.model import Denoiser
from facelab.photo import recipe_of
from facelab.pretrained import Pretrained


@pytest.mark.parametrize(
    ("word", "wish"),
    [
        ("7", {"7": 1.0}),
        ("Smiling", {"Smiling": 1.0}),
        ("Smiling=1", {"Smiling": 1.0}),
        ("Smiling=yes", {"Smiling": 1.0}),
        ("Smiling=True", {"Smiling": 1.0}),
        ("Male=-1", {"Male": -1.0}),
        ("Male=no", {"Male": -1.0}),
        ("Male=0", {"Male": 0.0}),
        ("Young=0.5", {"Young": 0.5}),
    ],
)
def test_a_word_is_a_wish(word, wish):
    assert wish_of(word, DIGITS if word == "7" else CELEBA) == wish


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("Smilling=1", "Smiling"),
        ("smiling=1", "Smiling"),
        ("Smiling=", "1 or yes, -1 or no"),
        ("Smiling=very", "1 or yes, -1 or no"),
        ("Smiling=2", "from -1"),
        ("Smiling=nan", "from -1"),
        ("=1", "no attribute ''"),
    ],
)
def test_a_word_that_is_none_says_what_would_be(word, says):
    with pytest.raises(ValueError, match=says):
        wish_of(word, CELEBA)


@pytest.fixture
def asked(monkeypatch):
    """Every condition that a stand-in for the shipped weights is asked for."""
    seen = []

    class Spy(Denoiser):
        def forward(self, x_t, t, cond, raw=False):
            seen.append(cond)
            return super().forward(x_t, t, cond, raw)

    def load(name):
        known = {"digits": ((1, 28, 28), DIGITS, True), "celeba": ((3, 64, 64), CELEBA, False)}
        if name not in known:
            raise ValueError(f"there are no weights called {name!r}")
        shape, attributes, exclusive = known[name]
        net = Spy(shape, attributes.names, exclusive, channels=(32,), attention=(False,), patch=4)
        return Pretrained(name, attributes, shape, {"sha256": "5" * 64}, net)

    monkeypatch.setattr(pretrained, "load", load)
    return seen


def test_attributes_are_one_request_of_one_face(asked, tmp_path, capsys):
    out = tmp_path / "faces.png"
    assert main(["sample", "Smiling=1", "Eyeglasses=no", "--count", "2", "--steps", "1", "--out", str(out)]) == 0
    said, unsaid = asked[0].chunk(2)
    assert torch.equal(said, CELEBA.encode(Smiling=True, Eyeglasses=False).expand(2, -1)) and not unsaid.any()
    assert "2 of no Eyeglasses, Smiling, written to" in capsys.readouterr().out
    assert Image.open(out).mode == "RGB" and "no photograph" in Image.open(out).text["Description"]
    assert recipe_of(out) == {
        "model": "celeba",
        "sha256": "5" * 64,
        "cond": {"Smiling": 1, "Eyeglasses": -1},
        "scale": 2,
        "steps": 1,
        "solver": "AdamsBashforth",
        "seed": 0,
    }


def test_sixteen_faces_are_a_square(asked, tmp_path):
    out = tmp_path / "faces.png"
    assert main(["sample", "Smiling", "--steps", "1", "--out", str(out)]) == 0
    wide, high = Image.open(out).size
    assert len(asked[0]) == 32 and abs(wide - high) < 8


def test_a_face_takes_ten_calls_where_nobody_says(asked, tmp_path):
    out = tmp_path / "faces.png"
    assert main(["sample", "Smiling", "--count", "1", "--out", str(out)]) == 0
    assert len(asked) == 10 and recipe_of(out)["steps"] == 10 and recipe_of(out)["scale"] == 2


def test_digits_are_rows_of_their_own(asked, tmp_path):
    out = tmp_path / "digits.png"
    assert main(["sample", "3", "8", "--count", "2", "--scale", "1", "--steps", "1", "--out", str(out)]) == 0
    assert asked[0].argmax(1).tolist() == [3, 3, 8, 8] and Image.open(out).mode == "L"


def test_names_are_printed_in_groups(asked, capsys):
    assert main(["sample", "--attributes"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in CELEBA.names) and "wearing:" in out
    assert main(["sample", "--attributes", "--model", "digits"]) == 0
    assert "0 1 2 3 4 5 6 7 8 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["Smilling=1"], "did you mean 'Smiling'"),
        (["Smiling=1", "Smiling=-1"], "Smiling is said twice"),
        (["Smiling=1", "7"], "no attribute '7'"),
        ([], "say what to draw"),
        (["Smiling", "--count", "0"], "--count must be"),
        (["Smiling", "--out", "faces.jpg"], "--out must end in .png"),
        (["Smiling", "--model", "cats"], "no weights called 'cats'"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_code_2(asked, words, says, tmp_path, capsys):
    out = tmp_path / "faces.png"
    assert main(["sample", "--out", str(out), *words]) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.splitlines()) == 1 and not out.exists()
