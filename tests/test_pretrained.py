"""Shipped weights load, with the attributes and scores of their cards; damage gets one sentence; the folders for the hub."""

import json
import pickle
import re

import make
import pytest
import torch
from oracle import Trap, refused, tiny
from safetensors.torch import save_file
from torch.testing import assert_close

import facelab
from facelab import DDIM, AttributeClassifier, Denoiser, generate, mnist, pretrained, synthetic_faces
from facelab.attributes import CELEBA, DIGITS, SYNTHETIC, Attributes
from facelab.device import digest
from facelab.evaluation.attribute_accuracy import class_accuracy
from facelab.evaluation.metrics import spectrum_amplitudes
from facelab.pretrained import WEIGHTS, load, names, save

SHIPPED = dict.fromkeys("mnist mnist-classifier mnist-ddpm".split(), DIGITS)
SHIPPED |= dict.fromkeys("synthetic synthetic-classifier".split(), SYNTHETIC)
SHIPPED |= dict.fromkeys("celeba celeba-classifier celeba-weak report-conditional report-unconditional".split(), CELEBA)
DENOISERS = [name for name in sorted(SHIPPED) if not name.endswith("classifier")]
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


def test_an_unknown_name_is_answered_with_all_names_and_an_old_one_with_the_new_one():
    assert set(SHIPPED) == set(names())
    for old, new in pretrained.RENAMED.items():
        with refused(f"there are no weights '{old}': they are now '{new}'"):
            facelab.load(old)
    with refused("mnist-classifier is a classifier, which has no schedule"):  # bug 24: it was an AttributeError
        load("mnist-classifier").schedule  # noqa: B018
    with refused("no weights 'cats': there are celeba, celeba-classifier, celeba-weak, mnist"):
        load("cats")


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


def conditions(attributes) -> torch.Tensor:
    """48 conditions: the classes in turn, or attributes of synthetic faces, the others unspecified."""
    if attributes.exclusive:
        return torch.eye(len(DIGITS)).repeat(5, 1)[:48]
    faces, cond = synthetic_faces(48, "test"), torch.zeros(48, len(attributes))
    cond[:, [attributes.index(name) for name in faces.attributes]] = faces.conds.float()
    return cond


@pytest.mark.parametrize("name", [name for name in DENOISERS if not name.startswith("report")])
def test_generated_images_have_no_checkerboard(name):
    weights = load(name)
    scores = weights.card["scores"]
    images = generate(weights, conditions(weights.attributes), steps=scores["steps"], seed=3)
    real, found = scores["spectrum_of_real_images"], spectrum_amplitudes(images)
    assert {place: found[place] for place in found if found[place] > max(1.5 * real[place], 0.15)} == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
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
