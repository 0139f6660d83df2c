"""The explorer's state is a value, its sampler generates what `generate` does, and the view shows the newest state."""

import asyncio
import html
import io
import json
import random
import re
import sys
import threading
import types

import ipywidgets
import numpy as np
import psutil
import pytest
import torch
from oracle import encoded, images_in
from PIL import Image

from facelab import CELEBA, DIGITS, SYNTHETIC, AttributeClassifier, Attributes, generate, noise, rectified_flow
from facelab.images import open_image, to_uint8
from facelab.plots import Figure
from facelab.pretrained import Pretrained, load
from facelab.widgets import explorer as module
from facelab.widgets.explorer import AttributeExplorer, ExplorerState, StateSampler

SHAPE = (3, 8, 8)
FACE = Attributes(("Beard", "Hat", "Smile"), {"face": ("Smile", "Beard"), "worn": ("Hat",)})


class ToyDenoiser:
    """A denoiser without a network, which each attribute changes in its own way; it remembers its calls."""

    def __init__(self, attributes=FACE, shape=SHAPE):
        self.schedule, self.attributes, self.shape, self.device = rectified_flow(), attributes, shape, "cpu"
        self.config = types.SimpleNamespace(frequencies=(0.5, 0.04, 0.97) if attributes == FACE else None)
        self.calls, self.error, self.before = [], None, None

    def __call__(self, x_t, t, cond):
        self.calls.append((x_t, t, cond))
        if self.before:
            self.before()
        if self.error:
            raise self.error
        shift = (cond * torch.arange(1, cond.shape[1] + 1)).sum(1) / cond.shape[1]
        return torch.tanh(0.5 * x_t + 0.5 * shift[:, None, None, None])


def toy(attributes=FACE, shape=SHAPE) -> Pretrained:
    return Pretrained("toy", attributes, shape, {"sha256": "0" * 64}, denoiser=ToyDenoiser(attributes, shape))


def toy_classifier(attributes=FACE, shape=SHAPE) -> AttributeClassifier:
    net = AttributeClassifier(shape, attributes.names, attributes.exclusive, channels=(8,))
    return net.eval().requires_grad_(False)


def explore(attributes=FACE) -> AttributeExplorer:
    shape = (1, 8, 8) if attributes.exclusive else SHAPE
    return AttributeExplorer(toy(attributes, shape), toy_classifier(attributes, shape))


@pytest.fixture
def explorer():
    return explore()


def as_shown(image: torch.Tensor) -> np.ndarray:
    return to_uint8(image).permute(1, 2, 0).numpy()


def shown(explorer) -> list[tuple[np.ndarray, str]]:
    """(pixels, alt) of each image in view."""
    found = images_in(explorer.figure.value)
    return [(np.asarray(Image.open(io.BytesIO(png))).reshape(8, 8, -1), alt) for png, alt in found]


def press(explorer, *names):
    for name in names:
        found, todo = [], [explorer]
        while todo:
            one = todo.pop()
            todo += getattr(one, "children", ())
            found += [one] if getattr(one, "description", None) == name and hasattr(one, "click") else []
        assert len(found) == 1, f"{len(found)} buttons are called {name!r}"
        found[0].click()


def check_view(explorer):
    """Image, text, controls and code all agree with the state."""
    state = explorer.state
    how = {"guidance_scale": state.guidance_scale, "steps": state.steps, "seed": state.seed}
    expected = generate(explorer.sampler.model, state.cond, state.n, **how)
    pixels, alt = shown(explorer)[-1]
    assert (pixels == as_shown(expected[-1])).all()
    assert f": {state.describe()}; seed {state.seed}" in alt and "preview" not in alt
    assert f"<b>Condition:</b> {state.describe()}." in explorer.text.value
    assert "The classifier predicts" in explorer.text.value and explorer.progress.value == explorer.error.value == ""
    assert tuple(explorer.attributes.values.values()) == state.values
    assert all(control.value == getattr(state, field) for field, control in explorer.sampling.fields.items())
    assert html.escape(state.code("toy")) in explorer.code.value
    assert torch.equal(explorer.cond, state.cond) and torch.equal(explorer.images, expected)


def test_the_values_are_the_condition():
    state = ExplorerState(FACE).set("Smile", 1).set("Hat", -1).set("Beard", 0.5).set("Hat", 0)
    assert state.specified == {"Beard": 0.5, "Smile": 1.0} and state.describe() == "Beard 0.5, Smile"
    assert torch.equal(state.cond, FACE.encode(Beard=0.5, Smile=1))
    assert state == ExplorerState(FACE).set("Smile", True).set("Beard", np.float32(0.5)) != ExplorerState(FACE)
    assert ExplorerState(FACE).set("Hat", 0.123456).values == (0, 0.1235, 0), "as precise as a record"
    seven = ExplorerState(DIGITS).set("3", 1).set("7", 1)
    assert seven.specified == {"7": 1.0} and seven.set("3", 0.5).specified == {"7": 1.0, "3": 0.5}
    assert ExplorerState(FACE, seed=np.int64(5)).code("toy").endswith("seed=5)\nfacelab.show(images, 1)")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda: ExplorerState(FACE).set("Smil", 1), "did you mean 'Smile'"),
        (lambda: ExplorerState(FACE).set("Smile", 1.5), "from -1 .* to 1"),
        (lambda: ExplorerState(FACE, (1, 0)), "3 numbers"),
        (lambda: ExplorerState(FACE, ("a", 0, 0)), "from -1 .* to 1"),
        (lambda: ExplorerState(FACE, steps=0), "steps must be a whole number from 1 to 1000"),
        (lambda: ExplorerState(FACE, n=2.5), "n must be a whole number"),
        (lambda: ExplorerState(FACE, seed=True), "seed must be a whole number"),
        (lambda: explore().update(ExplorerState(DIGITS)), "of its own attributes"),
        (lambda: explore().save("face.jpg"), r"end in \.png"),
        (lambda: AttributeExplorer("celeba"), "needs a denoiser, .* got 'celeba'"),
        (lambda: AttributeExplorer(Pretrained("a", FACE, SHAPE, {}, classifier=toy_classifier())), "needs a denoiser"),
    ],
)
def test_wrong_input_gives_one_sentence(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_unconditional_interpolated_and_predicted_states_keep_the_noise():
    a, b = ExplorerState(FACE, (1, 0, -1), 5, 4, 3.0, 7), ExplorerState(FACE, (0, 0, 1), seed=6)
    assert [a.lerp(b, weight).values for weight in (0, 0.25, 1)] == [(1, 0, -1), (0.75, 0, -0.5), (0, 0, 1)]
    assert a.lerp(b, 0.5).seed == 5
    assert a.unconditional() == a.replace(values=(), guidance_scale=1.0)
    assert a.unconditional() == a.replace(guidance_scale=5.0).unconditional()
    assert a.predicted(torch.tensor([0.76, 0.5, 0.24])) == a.replace(values=(1, 0, -1))
    assert a.predicted(torch.tensor([0.74, 0.26, 0.5])).values == (0, 0, 0)
    assert ExplorerState(DIGITS).predicted(torch.eye(10)[4] * 0.3).specified == {"4": 1.0}


@pytest.mark.parametrize("n, scale, values", [(1, 2.0, {"7": 1}), (4, 1.0, {"3": 0.5, "8": 0.5}), (2, 0.0, {})])
def test_four_lines_of_code_generate_the_same_images(n, scale, values):
    state = ExplorerState(DIGITS, tuple(DIGITS.encode(**values).tolist()), 11, n, scale, 3)
    code, names = state.code("mnist"), {}
    assert code.count("\n") == 3
    exec(code, names)
    torch.testing.assert_close(names["images"], StateSampler(load("mnist")).images(state), rtol=0, atol=1e-4)


def test_a_preview_is_unguided_and_the_images_guided():
    sampler = StateSampler(toy(), toy_classifier())
    calls, state = sampler.model.denoiser.calls, ExplorerState(FACE, (1, 0, 0), n=2, guidance_scale=3.0, steps=6)
    *_, preview = sampler.frames(state, 3)
    assert [len(x) for x, _, _ in calls] == [2, 2, 2]
    calls.clear()
    images = sampler.images(state)
    assert [len(x) for x, _, _ in calls] == [4] * 6 and images.shape == preview.shape == (2, *SHAPE)
    assert torch.equal(calls[0][0][:2], noise(2, SHAPE, 0)) and images.abs().max() <= 1
    # At a scale of zero or less the preview is unconditional.
    for scale, value in ((-2.0, 0), (0.0, 0), (0.5, 1), (3.0, 1)):
        calls.clear()
        list(sampler.frames(ExplorerState(FACE, (1, 0, 0), guidance_scale=scale), 3))
        assert [cond.tolist() for _, _, cond in calls] == [[[value, 0, 0]]] * 3


def test_a_weak_denoiser_is_used_for_autoguidance():
    model, weak, state = toy(), lambda x_t, t, cond: 0.5 * x_t, ExplorerState(FACE, (1, 0, 0), steps=3)
    images = StateSampler(model, toy_classifier(), weak, 1.5).images(state)
    wanted = generate(model, state.cond, 1, guidance_scale=2.0, steps=3, weak=weak, weak_scale=1.5)
    assert torch.equal(images, wanted)


def test_previews_take_as_many_steps_as_fit():
    sampler, state = StateSampler(toy()), ExplorerState(FACE, (1, 0, 0))
    for seconds, steps in ((0.09, 3), (0.045, 6), (1.0, 2), (0.014, 0), (0.028, 10)):
        sampler._seconds = {1: seconds}
        assert sampler.preview_steps(state, 1) == steps
    assert sampler.preview_steps(state.replace(guidance_scale=1.0), 1) == 0, "unguided images cost half"
    assert sampler.preview_steps(state, 2) == 5 and sampler.preview_steps(state, 0) == 0


def test_images_are_cached_and_the_oldest_are_dropped(monkeypatch):
    sampler, state = StateSampler(toy(), toy_classifier()), ExplorerState(FACE)
    monkeypatch.setattr(module, "CACHED", 3)
    for seed in range(5):
        sampler.images(state.replace(seed=seed))
    assert [s.seed for s in sampler.cache] == [2, 3, 4]
    calls = len(sampler.model.denoiser.calls)
    sampler.images(state.replace(seed=2))
    assert len(sampler.model.denoiser.calls) == calls
    sampler.images(state.replace(seed=5))
    assert [s.seed for s in sampler.cache] == [4, 2, 5], "the most recently used stay"


@pytest.mark.parametrize("name", ["mnist", "celeba", "synthetic"])
def test_the_shipped_classifiers_see_images_as_they_are_saved_and_rare_values_are_named(name):
    sampler = StateSampler(load(name))
    images = torch.rand(2, *sampler.model.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, state = sampler.probabilities(images), ExplorerState(sampler.model.attributes)
    assert found.shape == (2, len(sampler.model.attributes))
    assert torch.equal(found, sampler.probabilities(to_uint8(images).float() / 127.5 - 1))
    if name == "mnist":
        assert sampler.rare(state.set("7", 1)) == {}
    else:
        assert sampler.rare(state.set("Smiling", 1).set("Bald", -1)) == {}
        assert list(sampler.rare(state.set("Bald", 0.3))) == ["Bald"]


def test_the_first_image_is_unconditional(explorer):
    check_view(explorer)
    assert repr(explorer) == "An attribute explorer of toy, condition: unconditional. Run this cell to use it."


def test_each_attribute_is_yes_no_or_unspecified(explorer):
    for i, name in enumerate(FACE):
        yes, no = name, f"no {name}"
        for button, value in ((yes, 1), (yes, 0), (no, -1), (yes, 1), (no, -1), (no, 0)):
            press(explorer, button)
            assert explorer.cond[i] == value and explorer.cond.abs().sum() == abs(value)
            chip, first, _ = explorer.attributes.buttons[name]
            lit = [kind for kind in ("yes", "no") if f"facelab-is-{kind}" in chip._dom_classes]
            assert lit == {1: ["yes"], 0: [], -1: ["no"]}[value]
            assert first.tooltip == f"{name}: {['unspecified', 'yes', 'no'][value]}"
            rare = re.search("Rare in the training data:</b> (.*?)</span>", explorer.text.value)
            assert (rare and rare[1]) == {("Hat", 1): "Hat (4 %).", ("Smile", -1): "no Smile (3 %)."}.get((name, value))
            check_view(explorer)


@pytest.mark.parametrize("attributes", [CELEBA, SYNTHETIC, DIGITS], ids=["celeba", "synthetic", "digits"])
def test_the_attributes_are_in_their_groups(attributes):
    view = explore(attributes)
    groups = [[chip.children[0].description for chip in g.children[1].children] for g in view.attributes.children]
    assert groups == [[name.replace("_", " ") for name in names] for names in attributes.groups.values()]
    assert {len(widgets) for widgets in view.attributes.buttons.values()} == {2 if attributes.exclusive else 3}
    check_view(view)


def test_one_digit_is_chosen():
    view = explore(DIGITS)
    press(view, "3", "7")
    assert view.state.specified == {"7": 1.0}
    press(view, "as sliders")
    view.attributes.sliders["3"].slider.value = 0.5
    assert view.state.specified == {"3": 0.5, "7": 1.0} and view.attributes.sliders["3"].slider.min == 0
    check_view(view)


def count_updates(explorer) -> list[ExplorerState]:
    updates, update = [], explorer.update
    explorer.update = lambda state: (updates.append(state), update(state))
    return updates


def test_a_group_as_sliders(explorer):
    group = explorer.attributes.children[0]
    switch = group.children[0].children[1]
    assert switch.tooltip == "face as sliders" and not explorer.attributes.sliders
    press(explorer, "no Smile")
    switch.click()
    assert list(explorer.attributes.sliders) == ["Smile", "Beard"] and switch.tooltip == "face as buttons"
    assert group.children[1].layout.display == "none" != group.children[2].layout.display
    slider = explorer.attributes.sliders["Smile"]
    assert slider.number.value == slider.slider.value == -1 and slider.number.description == "Smile"
    updates = count_updates(explorer)
    slider.slider.value = 0.4
    assert explorer.state.specified == {"Smile": 0.4} and updates == [explorer.state], "one move, one update"
    assert explorer.attributes.buttons["Smile"][1].description == "Smile 0.4"
    explorer.update(explorer.state.set("Smile", 1))
    assert slider.slider.value == 1 and len(updates) == 2
    switch.click()
    assert group.children[2].layout.display == "none" != group.children[1].layout.display
    check_view(explorer)


@pytest.mark.parametrize("field, value", [("seed", 12), ("guidance_scale", 4.5), ("steps", 7), ("n", 4)])
def test_each_sampling_control(explorer, field, value):
    updates, before = count_updates(explorer), explorer.state
    explorer.sampling.fields[field].value = value
    assert updates == [explorer.state] == [before.replace(**{field: value})]
    assert explorer.sampling.fields[field].description and len(shown(explorer)) == explorer.state.n
    check_view(explorer)


def test_code_can_set_more_than_the_controls_offer(explorer):
    explorer.update(explorer.state.replace(n=3, guidance_scale=12.0))
    assert len(shown(explorer)) == 3 and explorer.sampling.fields["n"].label == "3 images"
    press(explorer, "Smile")
    assert explorer.state.n == 3 and explorer.state.guidance_scale == 12 and explorer.error.value == ""


def test_the_same_noise_without_the_condition_a_new_seed_and_reset(explorer):
    press(explorer, "Smile")
    explorer.sampling.compare.value = True
    (before, without), (_, conditional) = shown(explorer)
    assert (before == as_shown(explorer.sampler.images(explorer.state.unconditional())[0])).all()
    assert ": unconditional;" in without and ": Smile;" in conditional
    assert "unconditional, same noise" in explorer.figure.value
    check_view(explorer)
    state = explorer.state
    press(explorer, "New seed")
    assert explorer.state.values == state.values and explorer.state.seed != state.seed
    press(explorer, "Smile")
    assert len(shown(explorer)) == 1, "nothing is specified, so there is nothing to compare"
    press(explorer, "From the current condition", "Reset")
    assert explorer.state == explorer.start and not explorer.sampling.compare.value
    assert explorer.interpolation.ends == [None, None]
    check_view(explorer)


def test_interpolation(explorer):
    position, path = explorer.interpolation.position, explorer.interpolation.path
    assert position.disabled
    press(explorer, "no Smile", "From the current condition", "Smile", "Hat", "To the current condition")
    assert not position.disabled and position.value == 1 and "From <b>no Smile</b> to <b>Hat, Smile</b>" in path.value
    press(explorer, "New seed")
    seed = explorer.state.seed
    for place, values in ((0.25, {"Hat": 0.25, "Smile": -0.5}), (1, {"Hat": 1, "Smile": 1}), (0, {"Smile": -1})):
        position.value = place
        assert explorer.state.specified == values and explorer.state.seed == seed and "not on this" not in path.value
        check_view(explorer)
    press(explorer, "Beard")
    assert "not on this path" in path.value


def photo(kind="PNG") -> bytes:
    return encoded(Image.effect_noise((20, 30), 90).convert("RGB"), kind)


def choose(explorer, value):
    explorer.upload.notify_change({"name": "value", "type": "change", "new": value, "old": None, "owner": None})


@pytest.mark.parametrize(
    "value_of", [lambda data: ({"content": memoryview(data)},), lambda data: {"me.png": {"content": data}}]
)
def test_an_image_of_one_s_own_sets_the_attributes(explorer, value_of):
    content = photo()
    explorer.sampler.classifier.layers[-1].bias[:] = torch.tensor([3.0, 0.0, -3.0])
    explorer.sampler.classifier.layers[-1].weight[:] = 0
    choose(explorer, value_of(content))
    assert explorer.state.specified == {"Beard": 1.0, "Smile": -1.0}
    pixels, alt = shown(explorer)[-1]
    assert (pixels == as_shown(open_image(content, 8)[0])).all() and "Your image" in alt
    press(explorer, "New seed")
    assert len(shown(explorer)) == 2, "it stays"
    press(explorer, "Reset")
    assert len(shown(explorer)) == 1 and "never leaves this machine" in module.PRIVACY


def test_a_grey_model_takes_a_grey_image():
    view = explore(DIGITS)
    view.show_image(photo("JPEG"))
    assert view.own.shape == (1, 1, 8, 8) and sum(view.state.values) == 1


def test_the_images_are_saved_with_their_record(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer.sampling.fields["n"].value = 4
    press(explorer, "Hat")
    for name in ("facelab-1.png", "facelab-2.png"):
        press(explorer, "Save the PNG")
        with Image.open(tmp_path / name) as saved:
            record = json.loads(saved.text["facelab"])
            assert record == explorer.record() and saved.size[0] > 4 * 8 and name in explorer.saved.value
    assert record["cond"] == {"Hat": 1.0} and record["sampler"] == "AdamsBashforth" and record["n"] == 4


@pytest.mark.skipif(not hasattr(ipywidgets.Widget, "_repr_mimebundle_"), reason="ipywidgets 7 shows only the widget")
def test_a_saved_notebook_shows_a_still(explorer):
    assert "text/html" not in explorer._repr_mimebundle_()
    explorer.still = Figure(photo(), "Six states.")
    bundle = explorer._repr_mimebundle_()
    assert 'alt="Six states."' in bundle["text/html"] and any("widget-view" in kind for kind in bundle)


async def settled(*explorers):
    while any(explorer._running for explorer in explorers):
        await asyncio.sleep(0.001)


def in_a_loop(test):
    """Runs a coroutine function with an explorer that samples in an event loop; in the end its view agrees with its state."""

    def run(monkeypatch):
        async def main():
            explorer = explore()
            await settled(explorer)
            await test(explorer, monkeypatch)
            await settled(explorer)
            check_view(explorer)

        asyncio.run(main())

    return run


@in_a_loop
async def test_only_the_newest_state_is_finished(explorer, monkeypatch):
    monkeypatch.setattr(module, "PREVIEW_SECONDS", 0.0001)
    for value in range(1, 11):
        explorer.update(explorer.start.set("Smile", value / 10))
        await asyncio.sleep(0)
    await settled(explorer)
    assert [state.specified for state in explorer.sampler.cache] == [{}, {"Smile": 1.0}]


@in_a_loop
async def test_a_newer_state_stops_the_images_but_not_the_preview(explorer, monkeypatch):
    monkeypatch.setattr(module, "PREVIEW_SECONDS", 0.0001)
    net = explorer.sampler.model.denoiser
    first, second = (explorer.start.set(name, 1) for name in ("Smile", "Hat"))
    net.calls.clear()
    net.before = lambda: explorer.update(second) if len(net.calls) == 5 else None  # two for the preview
    views = []
    explorer.figure.observe(lambda change: views.append(images_in(change["new"])[0][1]), "value")
    explorer.update(first)
    await settled(explorer)
    sizes = [(len(x), tuple(cond[0].tolist())) for x, _, cond in net.calls]
    assert [size for size, cond in sizes if cond == first.values] == [1, 1, 2, 2, 2]
    assert [size for size, cond in sizes if cond == second.values] == [1, 1] + [2] * 10
    assert ["preview" in alt for alt in views] == [True, True, False] and "Hat" in views[-1]


@in_a_loop
async def test_an_error_of_a_state_that_was_replaced_is_not_shown(explorer, monkeypatch):
    def fail():
        explorer.update(explorer.start.set("Hat", 1))
        explorer.sampler.model.denoiser.before = None
        raise ValueError("the network failed.")

    explorer.sampler.model.denoiser.before = fail
    explorer.update(explorer.start.set("Smile", 1))


@in_a_loop
async def test_long_work_shows_its_progress(explorer, monkeypatch):
    notes, clock = [], iter(range(10**6))
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    explorer.progress.observe(lambda change: notes.append(change["new"]), "value")
    explorer.update(explorer.start.set("Smile", 1))
    await settled(explorer)
    assert "of 10." in notes[0] and explorer.progress.value == ""


@in_a_loop
async def test_two_explorers_are_independent(one, monkeypatch):
    two = explore()
    press(one, "Smile")
    press(two, "no Hat")
    await settled(one, two)
    assert one.state.specified == {"Smile": 1} and two.state.specified == {"Hat": -1}
    check_view(two)


@in_a_loop
async def test_in_colab_the_callback_samples_and_no_thread_is_started(explorer, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    check_view(view := explore())
    view.attributes.children[0].children[0].children[1].click()
    sliders = [*view.attributes.sliders.values(), *view.sampling.children[1:3]]
    # Each value that a live slider passes would be sampled to the end, one after the other.
    assert len(sliders) == 4 and not any(slider.children[1].continuous_update for slider in sliders)
    before = torch.get_num_threads(), threading.active_count()
    press(view, "Smile")
    assert (torch.get_num_threads(), threading.active_count()) == before
    check_view(view)


@pytest.mark.parametrize(
    "error, message",
    [
        (ValueError("the <b>net</b> failed.\nA second line."), "the &lt;b&gt;net&lt;/b&gt; failed."),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "not enough memory"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_an_error_is_one_sentence_and_the_explorer_goes_on(explorer, error, message):
    before, net = explorer.figure.value, explorer.sampler.model.denoiser
    net.error = error
    press(explorer, "Smile")
    assert message in explorer.error.value and "A second line" not in explorer.error.value
    assert explorer.figure.value == before and explorer.state.specified == {"Smile": 1}
    net.error = None
    press(explorer, "Hat")
    assert explorer.state.specified == {"Hat": 1, "Smile": 1}
    check_view(explorer)


def test_without_a_classifier_the_images_are_shown():
    view = AttributeExplorer(toy())
    assert "No shipped classifier" in view.text.value and len(shown(view)) == 1
    choose(view, ({"content": photo()},))
    assert "No shipped classifier" in view.error.value and view.own is None
    view.sampler.classifier = toy_classifier()
    press(view, "Smile")
    check_view(view)


def test_an_unreadable_image_and_a_full_disk_change_nothing(explorer, monkeypatch):
    def full(*_, **__):
        raise ValueError("'facelab-1.png' cannot be written (No space left on device).")

    press(explorer, "Smile")
    before = explorer.state
    choose(explorer, ({"content": b"not an image"},))
    assert "cannot be read as an image" in explorer.error.value and explorer.state == before
    monkeypatch.setattr(module, "save_png", full)
    press(explorer, "Save the PNG")
    assert "No space left" in explorer.error.value
    press(explorer, "Hat")
    check_view(explorer)


@pytest.mark.parametrize(
    "attributes, count",
    [(FACE, 50), (DIGITS, 50), pytest.param(CELEBA, 500, marks=pytest.mark.slow)],
    ids=["faces", "digits", "celeba"],
)
def test_random_moves(attributes, count, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "PREVIEW_SECONDS", 0.0005)
    view, rng, errors = explore(attributes), random.Random(0), []
    for group in view.attributes.children:
        group.children[0].children[1].click()
    names = "New seed", "Reset", "Save the PNG", "From the current condition", "To the current condition"
    moves = [lambda name=name: press(view, name) for name in names]
    moves += [button.click for _, *buttons in view.attributes.buttons.values() for button in buttons]
    moves += [lambda: view.show_image(photo())]
    controls = [(slider.slider, (-1, -0.3, 0.4, 1)) for slider in view.attributes.sliders.values()]
    values = {"seed": range(9), "guidance_scale": (0, 1, 2.5, 8), "steps": (1, 3, 20), "n": (1, 4)}
    controls += [(view.sampling.fields[field], choices) for field, choices in values.items()]
    controls += [(view.sampling.compare, (False, True)), (view.interpolation.position, (0, 0.3, 0.9, 1))]
    moves += [lambda c=control, v=choices: setattr(c, "value", rng.choice(v)) for control, choices in controls]
    view.error.observe(lambda change: errors.append(change["new"]), "value")
    for turn in range(count):
        rng.choice(moves)()
        if turn == 100:
            early = psutil.Process().memory_info().rss
    assert not [text for text in errors if text]
    if count > 100:
        assert psutil.Process().memory_info().rss - early < 50e6
    view.own = None
    view.update(view.state)
    check_view(view)
