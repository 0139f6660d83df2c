"""The attribute explorer (lesson 04): set the attributes of a face, and see it change while the control still moves.

`ExplorerState` is everything that decides the images, and `StateSampler` generates them; both work without widgets.
`AttributeExplorer` is the view. It shows a preview of a few steps, then the finished images. Sampling is a generator that pauses
after every step: in Jupyter the kernel's event loop runs it, so that a newer state can replace it. Colab, which shows changes only
from a callback, and plain Python run it in the callback. There are no threads.
"""

import asyncio
import dataclasses
import html
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

import ipywidgets
import torch
from torch import Tensor

from facelab.attributes import CELEBA, DIGITS, SYNTHETIC, Attributes
from facelab.guidance import WEAK_SCALE, autoguidance, cfg
from facelab.images import generation_record, img, open_image, png_bytes, save_png, to_uint8
from facelab.pretrained import Pretrained, load
from facelab.samplers import default_sampler, noise, trajectory
from facelab.widgets.controls import LABEL, LabelledSlider, one_sentence

FIRST_SEED = 5  # a person whom the shipped weights generate well under every condition
COUNTS = {"one image": 1, "four images": 4}
PREVIEW_SECONDS, CACHED = 0.3, 64  # the time that a preview may take, and how many states' images are cached
RARE = 0.05  # a value that fewer images of the training data have is rare
CLASSIFIERS = {DIGITS: "mnist-classifier", CELEBA: "celeba-classifier", SYNTHETIC: "synthetic-classifier"}
PRIVACY = (
    "The image never leaves this machine: this notebook's own kernel reads it and does not store it. "
    "Use your own face, or one whose owner agreed."
)


@dataclasses.dataclass(frozen=True)
class ExplorerState:
    """What decides the images: the condition, the noise, and how they are sampled.

    Args:
        values: one number in [-1, 1] for each attribute, 0 unspecified; all unspecified by default.
        n: number of images, each from noise of its own.
    """

    attributes: Attributes = dataclasses.field(repr=False)
    values: tuple[float, ...] = ()
    seed: int = 0
    n: int = 1
    guidance_scale: float = 2.0
    steps: int = 10

    def __post_init__(self):
        if len(self.values) not in (0, len(self.attributes)):
            raise ValueError(f"values must be {len(self.attributes)} numbers from -1 to 1, got {self.values}.")
        for field, low, high in (("seed", 0, 2**31), ("n", 1, 64), ("steps", 1, 1000)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
                raise ValueError(f"{field} must be a whole number from {low} to {high}, got {value!r}.")
            object.__setattr__(self, field, int(value))
        cond = self.attributes.encode(**dict(zip(self.attributes, self.values, strict=False)))
        object.__setattr__(self, "values", tuple(round(value, 4) for value in cond.tolist()))

    @property
    def cond(self) -> Tensor:
        """The condition (K,)."""
        return torch.tensor(self.values)

    @property
    def specified(self) -> dict[str, float]:
        """{name: value} of the specified attributes."""
        return {name: value for name, value in zip(self.attributes, self.values, strict=True) if value}

    def describe(self) -> str:
        """The condition in words: "Smiling, no Eyeglasses"."""
        return self.attributes.describe(self.cond).replace("_", " ")

    def replace(self, **changes) -> "ExplorerState":
        """The same with other fields."""
        return dataclasses.replace(self, **changes)

    def set(self, name: str, value: float) -> "ExplorerState":
        """The same with one attribute changed; of exclusive attributes, a yes makes the others unspecified."""
        others = {} if self.attributes.exclusive and value == 1 else self.specified
        return self.replace(values=tuple(self.attributes.encode(**others | {name: value}).tolist()))

    def unconditional(self) -> "ExplorerState":
        """The same noise under the null condition."""
        return self.replace(values=(), guidance_scale=1.0)

    def lerp(self, other: "ExplorerState", weight: float) -> "ExplorerState":
        """Linear interpolation of the condition, from this one (weight 0) to another (1), from the same noise."""
        pairs = zip(self.values, other.values, strict=True)
        return self.replace(values=tuple(a + weight * (b - a) for a, b in pairs))

    def predicted(self, probabilities: Tensor) -> "ExplorerState":
        """The condition that a classifier predicts: values of at least 75 % probability (K,), or the most likely class."""
        if self.attributes.exclusive:
            return self.set(self.attributes.names[int(probabilities.argmax())], 1)
        values = (probabilities > 0.75).float() - (probabilities < 0.25).float()
        return self.replace(values=tuple(values.tolist()))

    def code(self, model: str) -> str:
        """Four lines of Python that generate and show the same images."""
        cond = json.dumps({name: int(v) if v == int(v) else v for name, v in self.specified.items()})
        how = f"n={self.n}, guidance_scale={self.guidance_scale}, steps={self.steps}, seed={self.seed}"
        return (
            f"import facelab\nmodel = facelab.load({json.dumps(model)})\n"
            f"images = facelab.generate(model, {cond}, {how})\nfacelab.show(images, {self.n})"
        )


class StateSampler:
    """Generates and classifies the images of a state, and caches them.

    Its generators pause after every step, so that the caller can stop in between or let other work run. `weak` is a denoiser for
    autoguidance at `weak_scale`.
    """

    def __init__(self, model: Pretrained, classifier=None, weak=None, weak_scale: float = WEAK_SCALE):
        if getattr(model, "denoiser", None) is None:
            name = getattr(model, "name", model)
            raise ValueError(f"the explorer needs a denoiser, such as facelab.load('celeba'), got {name!r}.")
        self.model, self.classifier, self.weak, self.weak_scale = model, classifier, weak, weak_scale
        self.sampler = default_sampler(model.schedule)
        self.cache: dict[ExplorerState, tuple[Tensor, Tensor | Exception]] = {}
        self._seconds: dict[int, float] = {}  # of one unguided step, by number of images

    def frames(self, state: ExplorerState, preview: int = 0) -> Iterator[Tensor]:
        """x_T and x_s after every step, or the `preview` steps of an unguided preview, at half the cost of guided ones."""
        net, cond = self.model.denoiser, state.cond
        denoise = cfg(net, state.guidance_scale) if state.specified and not preview else net
        if self.weak is not None and not preview:
            denoise = autoguidance(denoise, self.weak, self.weak_scale)
        if preview and state.guidance_scale <= 0:
            cond = torch.zeros_like(cond)
        x_T = noise(state.n, self.model.shape, state.seed).to(getattr(net, "device", "cpu"))
        return trajectory(denoise, x_T, cond, self.sampler(self.model.schedule), preview or state.steps)

    def preview_steps(self, state: ExplorerState, parts: int) -> int:
        """How many unguided steps a preview of so many states may take; 0 where the images themselves are as fast."""
        seconds = self._seconds.get(state.n, 0.05 * state.n) * max(1, parts)
        evaluations = state.steps * (1 if state.guidance_scale == 1 or not state.specified else 2)
        fitting = min(state.steps, max(2, int(PREVIEW_SECONDS / seconds)))
        return 0 if not parts or evaluations * seconds <= PREVIEW_SECONDS else fitting

    def preview(self, state: ExplorerState, steps: int):
        """Pauses after every step; returns the images."""
        start = time.monotonic()
        for images in self.frames(state, steps):  # noqa: B007 - the last one counts
            yield
        self._seconds[state.n] = (time.monotonic() - start) / steps
        return images.clamp(-1, 1).cpu()

    def finish(self, state: ExplorerState) -> Iterator[int]:
        """Yields the number of finished steps; then `cache[state]` is (images, probabilities, or why there are none)."""
        found = self.cache.pop(state, None)
        if found is None:
            for step, images in enumerate(self.frames(state)):  # noqa: B007
                yield step
            images = images.clamp(-1, 1).cpu()
            try:
                found = images, self.probabilities(images)
            except Exception as error:
                found = images, error
        self.cache[state] = found  # at the end, where the most recent ones are
        while len(self.cache) > CACHED:
            self.cache.pop(next(iter(self.cache)), None)

    def images(self, state: ExplorerState) -> Tensor:
        """The images (n, C, H, W) in [-1, 1]."""
        for _ in self.finish(state):
            pass
        return self.cache[state][0]

    def probabilities(self, images: Tensor) -> Tensor:
        """The classifier's probabilities (B, K) for images as they would be saved."""
        if self.classifier is None:
            if self.model.attributes not in CLASSIFIERS:
                raise ValueError("No shipped classifier predicts these attributes.")
            self.classifier = load(CLASSIFIERS[self.model.attributes]).classifier
        return self.classifier.predict_proba(to_uint8(images).float() / 127.5 - 1)

    def prediction(self, state: ExplorerState) -> str:
        """HTML: what the classifier predicts of the specified attributes, or else the five most probable ones."""
        if isinstance(probabilities := self.cache[state][1], Exception):
            return html.escape(one_sentence(probabilities))
        exclusive, groups = state.attributes.exclusive, state.attributes.groups.values()
        present = probabilities == probabilities.amax(1, keepdim=True) if exclusive else probabilities > 0.5
        yes = dict(zip(state.attributes, present.sum(0).tolist(), strict=True))
        names = [name for group in groups for name in group if name in state.specified]
        if not names:
            order = probabilities.mean(0).argsort(descending=True, stable=True).tolist()
            likely = [state.attributes.names[i] for i in order]
            names = [name for name in likely if 2 * yes[name] > state.n][: 1 if exclusive else 5]
        found = ", ".join(_predicted(name, state, yes[name]) for name in names) or "no attribute"
        return f"<b>The classifier predicts:</b> {found}."

    def rare(self, state: ExplorerState) -> dict[str, float]:
        """{value in words: its frequency} of the specified values that few images of the training data have."""
        shares = self.model.denoiser.config.frequencies or ()
        found = zip(state.attributes, state.values, shares, strict=False)
        found = {("" if v > 0 else "no ") + name.replace("_", " "): p if v > 0 else 1 - p for name, v, p in found if v}
        return {words: p for words, p in found.items() if p < RARE}


class AttributeControls(ipywidgets.VBox):
    """Every attribute as yes, no or unspecified, group by group; a group can be switched to sliders for degrees.

    `changed(name, value)` is called when a control moves.
    """

    def __init__(self, attributes: Attributes, changed, live: bool = True):
        self.attributes, self.changed, self.live = attributes, changed, live
        self.values = dict.fromkeys(attributes, 0.0)
        self.buttons: dict[str, tuple[ipywidgets.Widget, ...]] = {}  # the box, "yes", "no"
        self.sliders: dict[str, LabelledSlider] = {}
        # One layout and style for all: forty attributes would have hundreds of models otherwise.
        self._shared = {"layout": ipywidgets.Layout(), "style": ipywidgets.ButtonStyle()}
        super().__init__([self._group(*group) for group in attributes.groups.items()])
        self.add_class("facelab-attributes")

    def update(self, state: ExplorerState) -> None:
        """Show the condition of a state; only controls that differ are touched."""
        for name, value in zip(self.attributes, state.values, strict=True):
            if value != self.values[name]:
                self._show(name, value)

    def _group(self, group: str, names) -> ipywidgets.Box:
        title = "choose one" if self.attributes.exclusive else group
        buttons, sliders = _box("chips", *map(self._attribute, names)), _box("sliders")
        switch = ipywidgets.Button()

        def show(as_sliders: bool) -> None:
            if as_sliders and not sliders.children:
                sliders.children = [self._slider(name) for name in names]
            sliders.layout.display, buttons.layout.display = ("flex", "none") if as_sliders else ("none", "")
            switch.description = "as buttons" if as_sliders else "as sliders"
            switch.tooltip = f"{title} {switch.description}"

        switch.on_click(lambda _: show(switch.description == "as sliders"))
        switch.add_class("facelab-switch")
        show(False)
        head = _box("group-head", ipywidgets.HTML(f"<b>{html.escape(title)}</b>"), switch)
        return _box("group", head, buttons, sliders)

    def _attribute(self, name: str) -> ipywidgets.Box:
        word, buttons = name.replace("_", " "), []
        kinds = (1.0, "yes", word), (-1.0, "no", f"no {word}")
        for value, kind, description in kinds[: 1 if self.attributes.exclusive else 2]:
            button = ipywidgets.Button(description=description, **self._shared)
            # Pressed again, it becomes unspecified.
            button.on_click(lambda _, value=value: self.changed(name, 0.0 if self.values[name] == value else value))
            button.add_class(f"facelab-{kind}")
            buttons.append(button)
        self.buttons[name] = _box("chip", *buttons), *buttons
        self._show(name, 0.0)
        return self.buttons[name][0]

    def _slider(self, name: str) -> LabelledSlider:
        low = 0.0 if self.attributes.exclusive else -1.0
        slider = LabelledSlider(name.replace("_", " "), self.values[name], low, 1.0, 0.1, self.live)
        slider.number.observe(lambda change: self.changed(name, change["new"]), "value")
        self.sliders[name] = slider
        return slider

    def _show(self, name: str, value: float) -> None:
        (chip, yes, *no), word = self.buttons[name], name.replace("_", " ")
        self.values[name] = value
        for state, holds in (("is-yes", value > 0), ("is-no", value < 0)):
            (chip.add_class if holds else chip.remove_class)(f"facelab-{state}")
        yes.description = word if value in (-1, 0, 1) else f"{word} {value:g}"
        for button in (yes, *no):
            button.tooltip = f"{word}: {({1: 'yes', -1: 'no', 0: 'unspecified'}).get(value, f'{value:g}')}"
        if name in self.sliders:
            self.sliders[name].number.value = value


class SamplingControls(ipywidgets.VBox):
    """Seed, guidance scale, steps, and how many images; `changed(field, value)` is called when one moves."""

    def __init__(self, state: ExplorerState, max_steps: int, changed, live: bool = True):
        guidance = LabelledSlider("guidance scale", state.guidance_scale, 0.0, 8.0, 0.5, live)
        steps = LabelledSlider("steps", state.steps, 1, max_steps, 1, live)
        seed = ipywidgets.BoundedIntText(state.seed, min=0, max=2**31, description="seed", style=LABEL)
        n = ipywidgets.Dropdown(options=COUNTS, description="show", style=LABEL)
        self.fields = {"seed": seed, "guidance_scale": guidance.number, "steps": steps.number, "n": n}
        for field, control in self.fields.items():
            control.observe(lambda change, field=field: changed(field, change["new"]), "value")
        self.compare = ipywidgets.Checkbox(description="compare with the unconditional image", indent=False)
        self.compare.observe(lambda _: changed("n", n.value), "value")
        super().__init__([seed, guidance, steps, n, self.compare])

    def update(self, state: ExplorerState) -> None:
        """Show a state, also one with another number of images, which code can set."""
        self.fields["n"].options = {**COUNTS, **({} if state.n in (1, 4) else {f"{state.n} images": state.n})}
        for field, control in self.fields.items():
            control.value = getattr(state, field)


class Interpolation(ipywidgets.VBox):
    """Two conditions and a position between them; `current()` gives the state, `changed(values)` is called when it moves."""

    def __init__(self, current, changed, live: bool = True):
        slider = LabelledSlider("position", 0.0, 0.0, 1.0, 0.05, live)
        self.ends, self.path, self.position = [None, None], ipywidgets.HTML(), slider.number
        self.position.observe(lambda _: changed(self.values) if self.values else None, "value")

        def mark(end: int) -> None:
            self.ends[end], self.position.value = current(), float(end)
            self.update(current())

        marks = [
            _button(f"{word} the current condition", "flag", lambda end=end: mark(end))
            for end, word in enumerate(("From", "To"))
        ]
        super().__init__([_box("buttons", *marks), self.path, slider])

    @property
    def values(self) -> tuple[float, ...]:
        """The condition at the position; empty before both ends are set."""
        return () if None in self.ends else self.ends[0].lerp(self.ends[1], self.position.value).values

    def update(self, state: ExplorerState) -> None:
        """Show the ends, and whether the condition of a state lies on the path between them."""
        names = [html.escape(end.describe()) if end else "not set" for end in self.ends]
        away = " The current condition is not on this path." if self.values not in ((), state.values) else ""
        self.path.value = _note(f"From <b>{names[0]}</b> to <b>{names[1]}</b>.{away}")
        self.position.disabled = None in self.ends


class AttributeExplorer(ipywidgets.VBox):
    """A face and all its attributes; the last line of a cell shows it.

    `state` is what is set, `cond` its condition, `images` what it generates, `record()` how; `update(state)` changes it from code.
    `still` is a `Figure` that a saved notebook shows in place of the widget. An error is shown in one sentence, and the explorer
    goes on.

    Args:
        model: weights that generate: `facelab.load("celeba")`, "synthetic" or "mnist".
        classifier: predicts the attributes of the images; by default the shipped one.
        weak: a denoiser for autoguidance.
    """

    def __init__(self, model: Pretrained, classifier=None, weak=None):
        self.sampler, self.still, self.own = StateSampler(model, classifier, weak), None, None
        self.state = self.start = ExplorerState(model.attributes, seed=FIRST_SEED)
        self._waiting, self._running, self._task, self._quiet = None, False, None, False
        self.live = "google.colab" not in sys.modules
        self.figure, self.text, self.progress, self.error = (ipywidgets.HTML() for _ in range(4))
        self.attributes = AttributeControls(model.attributes, self._set, self.live)
        self.sampling = SamplingControls(self.start, min(100, len(model.schedule)), self._replace, self.live)
        self.interpolation = Interpolation(lambda: self.state, lambda v: self._replace("values", v), self.live)
        panels = {"Attributes": self.attributes, "Sampling": self.sampling, "Interpolation": self.interpolation}
        panels |= {"Your image": self._upload(), "Save": self._saving()}
        stage = _box("stage", self.figure, self._actions(), self.progress, self.error, self.text)
        style = ipywidgets.HTML(f"<style>{Path(__file__).with_suffix('.css').read_text('utf-8')}</style>")
        super().__init__([style, _box("desk", stage, _panels(panels))])
        self.add_class("facelab-explorer")
        self.update(self.state)

    @property
    def cond(self) -> Tensor:
        """The condition (K,)."""
        return self.state.cond

    @property
    def images(self) -> Tensor:
        """The finished images (n, C, H, W) in [-1, 1], never the preview."""
        return self.sampler.images(self.state)

    def record(self) -> dict:
        """What it takes to generate the same images again."""
        how = {field: getattr(self.state, field) for field in ("guidance_scale", "steps", "seed", "n")}
        how |= {"weak_scale": self.sampler.weak_scale} if self.sampler.weak is not None else {}
        return generation_record(self.sampler.model, self.cond, sampler=self.sampler.sampler, **how)

    def save(self, file) -> Path:
        """Write the images to a PNG with their generation record, and return its path."""
        return save_png(self.images, file, self.record(), columns=self.state.n)

    def show_image(self, source) -> None:
        """Show an image of one's own, and set the attributes that the classifier predicts for it."""
        channels, size, _ = self.sampler.model.shape
        image = open_image(source, size, grey=channels == 1)
        state, self.own = self.state.predicted(self.sampler.probabilities(image)[0]), image
        self.update(state)

    def update(self, state: ExplorerState) -> None:
        """Show another state: the controls at once, then a preview, then the images."""
        if not isinstance(state, ExplorerState) or state.attributes != self.start.attributes:
            raise ValueError("the explorer takes an ExplorerState of its own attributes: change explorer.state.")
        self.state, self._quiet, self.error.value = state, True, ""
        try:
            for controls in (self.attributes, self.sampling, self.interpolation):
                controls.update(state)
            label = "Python code that generates the same images"
            lines = html.escape(state.code(self.sampler.model.name))
            self.code.value = f'<pre class="facelab-code" tabindex="0" aria-label="{label}">{lines}</pre>'
        finally:
            self._quiet = False
        self._waiting = state
        if self._running:
            return  # it goes on with the newest state
        self._running, work = True, self._work()
        try:
            loop = asyncio.get_running_loop() if self.live else None
        except RuntimeError:
            loop = None
        if loop is None:
            for _ in work:
                pass
        else:
            self._task = loop.create_task(_drive(work))

    def __repr__(self) -> str:
        # A saved notebook holds this line in place of the widget.
        name = self.sampler.model.name
        return f"An attribute explorer of {name}, condition: {self.state.describe()}. Run this cell to use it."

    def _repr_mimebundle_(self, **options):
        # ipywidgets 7 does not call this and shows only the widget.
        shown = super()._repr_mimebundle_(**options)
        return shown | ({"text/html": self.still.page} if self.still else {})

    def _work(self) -> Iterator[None]:
        """Answer the newest state until none is waiting; pauses after every step."""
        try:
            while self._waiting is not None:
                state, self._waiting = self._waiting, None
                try:
                    yield from self._answer(state)
                except Exception as error:  # otherwise it would disappear in a log
                    if self._waiting is None:
                        self._report(error)
        finally:
            self._running, self.progress.value = False, ""

    def _answer(self, state: ExplorerState) -> Iterator[None]:
        parts = [state.unconditional(), state] if self.sampling.compare.value and state.specified else [state]
        missing = [part for part in parts if part not in self.sampler.cache]
        if steps := self.sampler.preview_steps(state, len(missing)):
            previews = {}
            for part in missing:
                previews[part] = yield from self.sampler.preview(part, steps)
            self._show(parts, previews, f"A preview of {steps} steps.")
        begin = time.monotonic()
        for part in reversed(parts):
            for step in self.sampler.finish(part):
                yield
                if self._waiting is not None:
                    return
                if time.monotonic() > begin + 1:
                    self.progress.value = _note(f"Step {step} of {part.steps}.")
        self._show(parts, {}, self.sampler.prediction(state))

    def _show(self, parts: list[ExplorerState], previews: dict[ExplorerState, Tensor], note: str) -> None:
        figures, state = [], parts[-1]
        for part in parts:
            title = "" if len(parts) == 1 else "conditional" if part is state else "unconditional, same noise"
            what = f"generated {'digit' if part.attributes.exclusive else 'face'}: {part.describe()}; seed {part.seed}"
            images = previews[part] if part in previews else self.sampler.cache[part][0]
            figures.append(_figure(images, f"A {'preview of a ' if part in previews else ''}{what}", title))
        if self.own is not None:
            figures.append(_figure(self.own, "Your image, at the resolution of the classifier", "your image"))
        self.figure.value = f'<div class="facelab-figures">{"".join(figures)}</div>'
        lines = [f"<b>Condition:</b> {html.escape(state.describe())}.", note]
        if rare := self.sampler.rare(state):
            text = ", ".join(f"{html.escape(words)} ({100 * share:.2g} %)" for words, share in rare.items())
            lines.append(f'<span class="facelab-rare"><b>Rare in the training data:</b> {text}.</span>')
        self.text.value = _note("<br>".join(lines))

    def _report(self, error: Exception) -> None:
        self.error.value = _note(html.escape(f"This did not work: {one_sentence(error)}"), "facelab-error")

    def _try(self, action) -> None:
        self.error.value = ""
        try:
            action()
        except Exception as error:
            self._report(error)

    def _set(self, name: str, value: float) -> None:
        self._replace("values", self.state.set(name, value).values)

    def _replace(self, field: str, value) -> None:
        if not self._quiet:  # else the control follows the state
            self._try(lambda: self.update(self.state.replace(**{field: value})))

    def _actions(self) -> ipywidgets.Box:
        def reset():
            self.own, self.interpolation.ends, self._quiet = None, [None, None], True
            self.sampling.compare.value = False
            self.update(self.start)

        new_seed = _button("New seed", "user", lambda: self._replace("seed", random.randrange(1, 10_000)))
        return _box("buttons", new_seed, _button("Reset", "undo", lambda: self._try(reset)))

    def _upload(self) -> ipywidgets.Box:
        self.upload = ipywidgets.FileUpload(accept="image/*", multiple=False, description="Choose an image")

        def chosen(change):
            # A tuple of files in ipywidgets 8, a dictionary in 7.
            files = change["new"].values() if isinstance(change["new"], dict) else change["new"]
            for file in files:
                self._try(lambda content=bytes(file["content"]): self.show_image(content))

        self.upload.observe(chosen, "value")
        return ipywidgets.VBox([ipywidgets.HTML(_note(html.escape(PRIVACY))), self.upload])

    def _saving(self) -> ipywidgets.Box:
        self.code, self.saved = ipywidgets.HTML(), ipywidgets.HTML()

        def save():
            name = next(name for i in itertools.count(1) if not Path(name := f"facelab-{i}.png").exists())
            self.save(name)
            self.saved.value = _note(f"Saved as {name} in the folder of this notebook, with its generation record.")

        button = _button("Save the PNG", "download", lambda: self._try(save))
        return ipywidgets.VBox([_box("buttons", button, self.saved), self.code])


async def _drive(work: Iterator) -> None:
    """Run a generator in the event loop, which handles newer messages after every step."""
    for _ in work:
        await asyncio.sleep(0.001)


def _box(kind: str, *children) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(f"facelab-{kind}")
    return box


def _button(name: str, icon: str, action) -> ipywidgets.Button:
    button = ipywidgets.Button(description=name, icon=icon, tooltip=name)
    button.on_click(lambda _: action())
    return button


def _panels(panels: dict[str, ipywidgets.Widget]) -> ipywidgets.Box:
    """One panel at a time, chosen by a row of buttons."""
    buttons = [ipywidgets.Button(description=title) for title in panels]

    def choose(chosen):
        for button, (title, panel) in zip(buttons, panels.items(), strict=True):
            panel.layout.display = "flex" if button is chosen else "none"
            button.tooltip = f"{title}, shown" if button is chosen else f"show {title}"
            (button.add_class if button is chosen else button.remove_class)("facelab-chosen")

    for button in buttons:
        button.on_click(choose)
    choose(buttons[0])
    return _box("controls", _box("tabs", *buttons), _box("scroll", *panels.values()))


def _figure(images: Tensor, alt: str, title: str) -> str:
    alts = [alt + (f"; {i + 1} of {len(images)}." if len(images) > 1 else ".") for i in range(len(images))]
    tags = "".join(img(png_bytes(image), text, "") for image, text in zip(images, alts, strict=True))
    caption = f"<figcaption>{html.escape(title)}</figcaption>" if title else ""
    return f'<figure class="facelab-of-{len(images)}"><div>{tags}</div>{caption}</figure>'


def _predicted(name: str, state: ExplorerState, yes: int) -> str:
    """ "Smiling yes", or "Smiling in 3 of 4", and for a specified attribute whether most images have the value."""
    count = f"in {yes} of {state.n}" if state.n > 1 else "yes" if yes else "no"
    text, value = f"{html.escape(name.replace('_', ' '))} {count}", state.specified.get(name)
    if value is None:
        return text
    matches = 2 * (yes if value > 0 else state.n - yes) > state.n
    kind, title, sign = ("match", "as specified", "✓") if matches else ("mismatch", "not as specified", "✗")
    return f'<span class="facelab-{kind}">{text} <span title="{title}">{sign}</span></span>'


def _note(text: str, kind: str = "") -> str:
    return f'<div class="facelab-text {kind}" role="status" tabindex="0">{text}</div>'
