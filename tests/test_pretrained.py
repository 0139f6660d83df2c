"""Shipped weights load, with the attributes and the scores that their cards name; what is damaged or old gets one sentence."""

import json
import pickle

import pytest
import torch
from oracle import Trap, refused, tiny
from safetensors.torch import save_file
from torch.testing import assert_close

import facelab
from facelab import pretrained
from facelab.attributes import CELEBA, DIGITS, SYNTHETIC, Attributes
from facelab.classifier import AttributeClassifier
from facelab.data.mnist import mnist
from facelab.denoiser import Denoiser
from facelab.device import digest
from facelab.evaluation.attribute_accuracy import class_accuracy
from facelab.pretrained import WEIGHTS, load, names, save
from facelab.samplers import DDIM

SHIPPED = {
    "mnist": DIGITS,
    "mnist-classifier": DIGITS,
    "celeba": CELEBA,
    "celeba-classifier": CELEBA,
    "celeba-weak": CELEBA,
    "mnist-ddpm": DIGITS,
    "synthetic": SYNTHETIC,
    "synthetic-classifier": SYNTHETIC,
    "report-conditional": CELEBA,
    "report-unconditional": CELEBA,
}
CARD = {"what", "data", "license", "command", "steps", "machine", "minutes", "scores", "sha256", "bytes", "parameters"}


@pytest.fixture(scope="module")
def classifier():
    return load("mnist-classifier").classifier


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load(name):
    model = load(name)
    net, attributes = model.denoiser or model.classifier, SHIPPED[name]
    assert (model.classifier is not None) == name.endswith("classifier") and not net.training
    assert model.attributes == net.attributes == attributes and model.attributes.groups == attributes.groups
    assert model.card["parameters"] == sum(p.numel() for p in net.parameters()) and model.shape == net.shape
    assert [key for key in CARD if model.card.get(key) in (None, "", {})] == []
    assert model.card["bytes"] == (pretrained.shipped_dir() / name / WEIGHTS).stat().st_size
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    if model.denoiser:
        again = Denoiser.from_pretrained(pretrained.shipped_dir() / name)
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_a_classifier_has_no_schedule():
    """Bug 24: it was an AttributeError."""
    with refused("mnist-classifier is a classifier, which has no schedule"):
        load("mnist-classifier").schedule  # noqa: B018


def test_the_classifier_predicts_real_digits(classifier):
    test = mnist("test").subset(range(1000))
    assert (classifier.predict(test[:][0]) == test.classes()).double().mean() > 0.985


def test_digits_show_their_class_and_unconditional_ones_do_not(classifier):
    net = load("mnist").denoiser
    assert class_accuracy(net, classifier, 2, 10).value >= 0.95
    assert class_accuracy(net, classifier, 0, 10, steps=5).value < 0.3


@pytest.mark.slow
def test_digits_reach_the_class_accuracy_of_their_card(classifier):
    net = load("mnist").denoiser
    assert class_accuracy(net, classifier, 2, 200, sampler=DDIM).value >= 0.99
    assert class_accuracy(net, classifier, 1, 200, sampler=DDIM).value >= 0.97


def test_what_was_saved_is_loaded_to_half_precision(tmp_path):
    net = tiny(seed=3)
    save(net, tmp_path, {"what": "a test"})
    model = load(tmp_path)
    assert model.card["what"] == "a test" and model.card["bytes"] == (tmp_path / WEIGHTS).stat().st_size
    for name, value in net.state_dict().items():
        assert_close(model.denoiser.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    net = AttributeClassifier((1, 8, 8), ("Hat",), channels=(8,))
    assert load(save(net, tmp_path / "classifier", {})).classifier.to_json_string() == net.to_json_string()


def test_other_attributes_of_known_names_stay_other_attributes(tmp_path):
    """Bug 9: the names "0" to "9" made the attributes exclusive, which the network was not."""
    save(tiny(attributes=DIGITS.names, exclusive=False), tmp_path, {})
    model = load(tmp_path)
    assert model.attributes == model.denoiser.attributes == Attributes(DIGITS.names) and not model.attributes.exclusive


# Bad input


@pytest.mark.parametrize(("old", "new"), pretrained.RENAMED.items())
def test_an_old_name_is_answered_with_the_new_one(old, new):
    with refused(f"there are no weights '{old}': they are now '{new}'"):
        facelab.load(old)


def test_an_unknown_name_is_answered_with_all_names():
    assert set(SHIPPED) == set(names())
    with refused("no weights 'cats': there are celeba, celeba-classifier, celeba-weak, mnist"):
        load("cats")


def test_an_old_config_is_answered_with_the_new_key(tmp_path):
    save(tiny(), tmp_path, {})
    config = json.loads((tmp_path / "config.json").read_text())
    config["names"] = config.pop("attributes")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"facelab 0\.1.*attributes.*names"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["truncated", "empty", "HTML", "pickle", "another network", "missing"])
@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "card.json"])
def test_a_damaged_file_is_one_sentence_and_nothing_in_it_is_executed(tmp_path, name, kind):
    folder, trap = tmp_path / "here", tmp_path / "executed"
    file = save(tiny(), folder, {}) / name
    content = file.read_bytes()
    new = {"truncated": content[: len(content) // 2], "empty": b"", "HTML": b"<!doctype html>"}
    new["pickle"] = pickle.dumps(Trap(trap))
    file.unlink()
    if kind == "another network":
        save_file({"other": torch.zeros(3)}, file)
    elif kind != "missing":
        file.write_bytes(new[kind])
    with refused("missing or damaged|no weights '.*here'"):
        load(folder)
    if name == WEIGHTS and kind not in ("missing",):  # even where the card has been adapted to the file
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps(card | {"sha256": digest(file)}))
        with refused("another architecture|holds no weights"):
            load(folder)
    assert not trap.exists()


def test_weights_that_cannot_be_written_are_one_sentence_and_the_old_ones_stay(tmp_path, monkeypatch):
    save(tiny(seed=1), tmp_path, {})
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full)
    with pytest.raises(OSError, match="could not be written .*No space left.*free some space or choose another folder"):
        save(tiny(seed=2), tmp_path, {})
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after.keys() == before.keys() and after[WEIGHTS] == before[WEIGHTS]
