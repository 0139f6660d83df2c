"""The attribute explorer: ask for a face, and it answers while the hand still moves (lesson 04).

What is asked is plain Python, a `Request`; `AttributeExplorer` only turns it. A move is answered first by a coarse preview,
then by the picture itself. The work is done beside the notebook, in a thread that ends when there is nothing left to do;
in Colab, which shows nothing that a thread changes, in the callback.
"""

import contextlib
import dataclasses
import html
import random
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

import ipywidgets
import torch
from torch import Tensor

from facelab import photo, plots
from facelab.attributes import Attributes
from facelab.model import AttributeClassifier
from facelab.pretrained import Pretrained
from facelab.request import Request, held, judge_of, sure_of
from facelab.widgets import WIDE, Dial, img

PREVIEW = 0.3  # seconds that a preview may take
PATIENCE = 1.0  # seconds before work is spoken of
KEPT = 64  # drawn requests that are kept, so that the way back costs nothing
FIRST = 5  # the seed it begins with: a person whom the shipped weights draw well, whatever is asked
ROWS = ("one, large", 1), ("a row of four", 4)
PLACES = tuple(i / 20 for i in range(21))  # on a walk, where its slider can stand
STATES = {1: "yes", -1: "no", 0: "not said"}
STYLE = Path(__file__).with_suffix(".css")
OWN = (
    "Nothing leaves this machine: the picture is looked at by this notebook's own kernel, and not kept. "
    "Take your own face, or one whose owner said yes."
)


class AttributeExplorer(ipywidgets.VBox):
    """A face, and all that can be asked of it; the last line of a cell shows it.

    `request` is what is asked, `cond` its condition, `picture` what is drawn for it, `recipe()` how; `ask(request)` moves the
    explorer by hand. What goes wrong is told in one sentence, and the explorer lives on.

    Args:
        model: trained weights that draw: `pretrained.load("celeba")`, or "drawn", or "digits".
        judge: what reads the pictures; by default the shipped judge of these attributes.
        still: what a saved notebook shows in the explorer's place, for those who only look.

    Raises:
        ValueError: for weights that do not draw.
    """

    def __init__(
        self, model: Pretrained, judge: AttributeClassifier | None = None, still: plots.Illustration | None = None
    ):
        self.start = Request(model, seed=FIRST)
        self.request, self.judge, self.still, self.own, self.marks = self.start, judge, still, None, {}
        self._kept: OrderedDict[Request, tuple[Tensor, Tensor | None]] = OrderedDict()
        self._lock, self._wanted, self._busy, self._thread = threading.RLock(), None, False, None
        self._quiet, self._unread = False, ""
        self._pace: dict[int, float] = {}  # seconds of one plain call, by people
        self._threaded = "google.colab" not in sys.modules
        # The pictures, the words, how far the work is, and what went wrong.
        self.seen, self.said, self.now, self.fault = (ipywidgets.HTML() for _ in range(4))
        self.wishes, self.dials = Wishes(model.attributes, self._say, live=self._threaded), self._dials()
        stage = _box("stage", self.seen, self.now, self.fault, self._buttons(), self.said, self.dials)
        desk = _box("desk", stage, self.wishes)
        folds = self._way(), self._yours(), self._keeping()
        super().__init__([_html(f"<style>{STYLE.read_text('utf-8')}</style>"), desk, *folds])
        self.add_class("facelab-explorer")
        self.ask(self.request)

    # What goes on by hand

    @property
    def cond(self) -> Tensor:
        """The condition (K,) that is asked."""
        return self.request.cond

    @property
    def picture(self) -> Tensor:
        """What is drawn for it, (people, C, H, W) in [-1, 1]: never the preview."""
        return self._finished(self.request)[0]

    def recipe(self) -> dict:
        """All that it takes to draw the very same picture."""
        return self.request.recipe()

    def save(self, file) -> Path:
        """Write the picture as a PNG with its recipe inside, and return its path.

        Raises:
            ValueError: for a name that does not end in .png, or where the file cannot be written.
        """
        return photo.save_png(self.picture, file, self.recipe(), columns=self.request.people)

    def ask(self, request: Request) -> None:
        """Ask for this: controls and words follow at once, the picture as fast as this machine can.

        Raises:
            ValueError: for what is no `Request`, or one of another model than the explorer's. What goes wrong in drawing is
                told in the explorer.
        """
        if not isinstance(request, Request) or request.model.card["sha256"] != self.start.model.card["sha256"]:
            raise ValueError("the explorer asks its own model: change explorer.request, as by its say(name, value).")
        self.request = request
        self._reflect()
        with self._lock:
            self._wanted, self.fault.value = request, ""
            if self._busy:
                return  # whoever works there looks for what is wanted now, and drops the rest
            self._busy = True
        if self._threaded:
            # No daemon: one that the end of Python meets inside torch takes the process down with it.
            self._thread = threading.Thread(target=self._work)
            self._thread.start()
        else:
            self._work()

    def wait(self, seconds: float = 60.0) -> None:
        """Until the picture is there that was asked for last; after `seconds` it returns without a word, there or not."""
        if self._thread is not None:
            self._thread.join(seconds)

    def __repr__(self) -> str:
        # A saved notebook holds no living widget, only this line.
        return f"An explorer of {self.request.model.name}, asking for: {self.request.describe()}. Run this cell to move it."

    def _repr_mimebundle_(self, **options):
        # ipywidgets 7 never asks for this, and shows the widget alone.
        shown = super()._repr_mimebundle_(**options)
        if self.still is not None:
            shown["text/html"] = self.still._repr_mimebundle_()[0]["text/html"]
        return shown

    # The work

    def _work(self) -> None:
        while True:
            with self._lock:
                request, self._wanted = self._wanted, None
                self._busy = request is not None
            if request is None:
                return
            try:
                with _one_thread():
                    self._answer(request)
            except Exception as fault:  # it would vanish in a log
                with self._lock:
                    if self._wanted is None:  # else nobody asks for that picture any more
                        self._tell(fault)

    def _answer(self, request: Request) -> None:
        """Preview, then picture, of each part that is shown; given up between two calls when something newer is wanted."""
        parts = [request.silent(), request] if self.beside.value and request.asked else [request]
        missing = [part for part in parts if part not in self._kept]
        if steps := self._fitting(request, len(missing)) if missing else 0:
            self._show(parts, {part: (self._drawn(part, steps), None) for part in missing}, steps)
        whole = {}
        for part in reversed(parts):
            whole[part] = self._finished(part, self._given_up)
            if whole[part] is None:
                return
        self._show(parts, whole)

    def _given_up(self) -> bool:
        """Whether something newer is wanted, or Python is ending."""
        return self._wanted is not None or not threading.main_thread().is_alive()

    def _fitting(self, request: Request, parts: int) -> int:
        """How many plain calls a preview may take; 0 where the picture itself is there as fast."""
        pace = self._pace.get(request.people, 0.05 * request.people) * max(1, parts)
        both = 1 if request.scale == 1 or not request.asked else 2
        return 0 if both * request.steps * pace <= PREVIEW else min(request.steps, max(2, int(PREVIEW / pace)))

    def _finished(self, request: Request, newer=lambda: False) -> tuple[Tensor, Tensor | None] | None:
        """The picture and how the judge reads it, drawn or kept; None if it was given up."""
        with self._lock:
            found = self._kept.get(request)
        if found is None:
            pictures = self._drawn(request, None, newer)
            if pictures is None:
                return None
            found = pictures, self._read(pictures)
        with self._lock:
            self._kept[request] = found
            self._kept.move_to_end(request)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    def _drawn(self, request: Request, coarse: int | None, newer=lambda: False) -> Tensor | None:
        start, told, pictures = time.monotonic(), -1.0, None
        try:
            for done, pictures in enumerate(request.frames(coarse)):  # noqa: B007 - the last one is the picture
                spent = time.monotonic() - start
                if newer():
                    return None
                if not coarse and spent > PATIENCE and spent > told + 0.3:
                    self.now.value, told = _note(f"Refining: {done} of {request.steps} calls."), spent
        finally:
            self.now.value = ""
        if coarse:
            self._pace[request.people] = spent / coarse
        return pictures.clamp(-1, 1)

    def _read(self, pictures: Tensor) -> Tensor | None:
        """How sure the judge is; without a judge nothing is told but why."""
        try:
            self.judge = self.judge or judge_of(self.request.attributes)
            self._unread = ""
            return sure_of(self.judge, pictures)
        except Exception as fault:
            self._unread = _sentence(fault)
            return None

    # What is shown

    def _show(self, parts: list[Request], drawn: dict, coarse: int = 0) -> None:
        figures = []
        for part in parts:
            name = "" if len(parts) == 1 else "with it" if part is parts[-1] else "without what you asked"
            preview = coarse > 0 and part in drawn
            figures.append(_figure((drawn.get(part) or self._kept[part])[0], part, name, preview))
        if self.own is not None:
            figures.append(_figure(self.own[None], None, "your picture"))
        self.seen.value = f'<div class="facelab-figures">{"".join(figures)}</div>'
        self.said.value = self._words(parts[-1], None if coarse else drawn[parts[-1]][1], coarse)

    def _words(self, request: Request, sure: Tensor | None, coarse: int = 0) -> str:
        lines = [f"<b>Asked:</b> {html.escape(request.describe())}."]
        if coarse:
            lines.append(f"A preview of {coarse} calls.")
        elif sure is None:
            lines.append(html.escape(self._unread))
        else:
            told = ", ".join(_told(reading) for reading in request.readings(sure)) or "nothing that it is sure of"
            lines.append(f"<b>The judge reads:</b> {told}.")
        if rare := request.rare():
            told = ", ".join(
                f"{html.escape(what.replace('_', ' '))} ({_percent(share)})" for what, share in rare.items()
            )
            lines.append(f'<span class="facelab-rare"><b>Too rare in the data to be trusted:</b> {told}.</span>')
        return f'<div class="facelab-words" role="status">{"<br>".join(lines)}</div>'

    def _tell(self, fault: Exception) -> None:
        self.fault.value = _note(f"This did not work: {_sentence(fault)}", "facelab-fault")

    def _reflect(self) -> None:
        """Every control as the request has it, without asking anew."""
        request, self._quiet = self.request, True
        try:
            self.wishes.show(request.said)
            other = () if request.people in (1, 4) else ((f"a row of {request.people}", request.people),)
            self.people.options = ROWS + other  # by hand any number can be asked for
            for control, field in self._fields:
                control.value = getattr(request, field)
            self.code.value = _code(request.code())
            ends = [self.marks.get(end) for end in ("from", "to")]
            known = [html.escape(mark.describe()) if mark else "not marked yet" for mark in ends]
            way = f"From <b>{known[0]}</b> to <b>{known[1]}</b>."
            if None not in ends:
                here, there = ends
                places = (self.place.value, *PLACES)
                stands = next((place for place in places if here.toward(there, place).said == request.said), None)
                self.place.value = stands or 0.0
                way += " What is asked now is not on this way." if stands is None else ""
            self.route.value = f'<div class="facelab-words">{way}</div>'
            self.place.disabled = None in ends
        finally:
            self._quiet = False

    # The controls

    def _buttons(self) -> ipywidgets.Box:
        def another():
            self.ask(dataclasses.replace(self.request, seed=random.randrange(1, 10_000)))

        def reset():
            self.own, self.marks, self._quiet = None, {}, True
            self.beside.value, self.place.value = False, 0.0
            self.ask(self.start)

        return _box(
            "buttons",
            self._button("Another person" if not self._digits else "Another hand", "user", another),
            self._button("Surprise me", "magic", lambda: self.ask(self.request.surprise(random.randrange(10_000)))),
            self._button("Reset", "undo", reset),
        )

    @property
    def _digits(self) -> bool:
        return self.start.attributes.exclusive

    def _dials(self) -> ipywidgets.Box:
        request, most = self.start, len(self.start.model.schedule)
        self.seed = ipywidgets.BoundedIntText(request.seed, min=0, max=2**31, description="seed: who it is", style=WIDE)
        scale = Dial("guidance", request.scale, 0.0, 8.0, 0.5, self._threaded)
        steps = Dial("calls", request.steps, 1, min(100, most), 1, self._threaded)
        self.scale, self.steps = scale.number, steps.number
        self.people = ipywidgets.Dropdown(options=ROWS, description="show", style=WIDE)
        self.beside = ipywidgets.Checkbox(description="beside it: without what I asked", indent=False)
        self._fields = (self.seed, "seed"), (self.scale, "scale"), (self.steps, "steps"), (self.people, "people")
        for control, field in self._fields:
            control.observe(self._turned(field), "value")
        self.beside.observe(self._turned(None), "value")
        return _box("dials", self.seed, scale, steps, self.people, self.beside)

    def _turned(self, field: str | None):
        def turned(change):
            changed = {field: change["new"]} if field else {}
            if not self._quiet:
                self._try(lambda: self.ask(dataclasses.replace(self.request, **changed)))

        return turned

    def _say(self, name: str, value: float) -> None:
        if not self._quiet:
            self._try(lambda: self.ask(self.request.say(name, value)))

    def _way(self) -> ipywidgets.Box:
        self.route, way = _html(""), Dial("place", 0.0, 0.0, 1.0, 0.05, self._threaded)
        self.place = way.number

        def mark(end):
            self.marks[end] = self.request
            self._reflect()

        def walked(change):
            if not self._quiet and len(self.marks) == 2:
                here, there = self.marks["from"], self.marks["to"]
                self.ask(dataclasses.replace(self.request, said=here.toward(there, change["new"]).said))

        self.place.observe(walked, "value")
        marks = _box(
            "buttons",
            self._button("From what is asked now", "flag", lambda: mark("from")),
            self._button("To what is asked now", "flag-checkered", lambda: mark("to")),
        )
        return self._fold("A walk from here to there", marks, self.route, way)

    def _yours(self) -> ipywidgets.Box:
        self.upload = ipywidgets.FileUpload(accept="image/*", multiple=False, description="Choose a picture")

        def chosen(change):
            # ipywidgets 8 has a tuple of files there, 7 a dictionary.
            files = change["new"].values() if isinstance(change["new"], dict) else change["new"]
            for file in files:
                self._try(lambda content=bytes(file["content"]): self.look(content))

        self.upload.observe(chosen, "value")
        return self._fold("A picture of your own", _html(f'<div class="facelab-words">{OWN}</div>'), self.upload)

    def look(self, source) -> None:
        """Read a picture of one's own, and ask for what the judge sees in it; `source` as for `photo.open_photo`.

        Raises:
            ValueError: where it is no picture, or no judge reads these attributes.
        """
        channels, side, _ = self.start.model.shape
        picture = photo.open_photo(source, side, grey=channels == 1)
        sure = self._read(picture[None])
        if sure is None:
            raise ValueError(self._unread)
        self.own = picture
        self.ask(self.request.as_read(sure[0]))

    def _keeping(self) -> ipywidgets.Box:
        self.code, self.saved = _html(""), _html("")

        def save():
            taken, number, self.saved.value = True, 0, ""
            while taken:
                number += 1
                taken = Path(name := f"facelab-{number}.png").exists()
            self.save(name)
            self.saved.value = _note(f"Saved as {name} in this notebook's folder, with its recipe inside.")

        button = self._button("Save the PNG", "download", save)
        return self._fold(
            "Keep it: the PNG with its recipe, and the code", _box("buttons", button, self.saved), self.code
        )

    def _fold(self, title: str, *inside) -> ipywidgets.Box:
        body = _box("inside", *inside)
        body.layout.display = "none"
        head = ipywidgets.Button(description=title, icon="caret-right", tooltip=f"{title}: open or close")

        def turn(_):
            shut = body.layout.display == "none"
            body.layout.display, head.icon = ("flex", "caret-down") if shut else ("none", "caret-right")

        head.on_click(turn)
        head.add_class("facelab-fold-head")
        return _box("fold", head, body)

    def _button(self, name: str, icon: str, act) -> ipywidgets.Button:
        button = ipywidgets.Button(description=name, icon=icon, tooltip=name)
        button.on_click(lambda _: self._try(act))
        return button

    def _try(self, act) -> None:
        self.fault.value = ""
        try:
            act()
        except Exception as fault:
            self._tell(fault)


# For those who only look: one person, asked for six things.
SIX = ({}, {"Smiling": 1}, {"Blond_Hair": 1}, {"Black_Hair": 1, "Bangs": 1}, {"Male": 1}, {"Male": 1, "Bald": 1})
SIX_IN_WORDS = (
    "The same person in six states of the explorer, drawn for: anything; Smiling; Blond Hair; Bangs, Black Hair; Male; "
    "Bald, Male."
)


def six_states(model: Pretrained, seed: int = FIRST, side: int = 128) -> plots.Illustration:
    """The same person asked for `SIX` things in turn, as the explorer would show them; data/results/explorer.png is one."""
    start = Request(model, seed=seed)
    asked = [dataclasses.replace(start, said=tuple(model.attributes.encode(**wishes).tolist())) for wishes in SIX]
    words = [request.describe() for request in asked]
    drawn = torch.cat([request.draw() for request in asked])
    return plots.show(drawn, 6, captions=words, side=side, alt=f"{SIX_IN_WORDS.partition(':')[0]}: {'; '.join(words)}.")


class Wishes(ipywidgets.VBox):
    """Every attribute as a three-way control, group by group; a group opens into sliders.

    `said(name, value)` is called when one is moved, with `live` also while a slider moves; `show(values)` puts all where they
    belong.
    """

    def __init__(self, attributes: Attributes, said, live: bool = True):
        self.attributes, self.said, self.live = attributes, said, live
        self.values = (0.0,) * len(attributes)
        self.chips: dict[str, tuple[ipywidgets.Box, ...]] = {}
        self.dials: dict[str, Dial] = {}
        # One layout and one style for all, or a page of forty attributes would hold four hundred models.
        self._common = {"layout": ipywidgets.Layout(), "style": ipywidgets.ButtonStyle()}
        super().__init__([self._group(*group) for group in attributes.groups.items()])
        self.add_class("facelab-wishes")

    def show(self, values: tuple[float, ...]) -> None:
        """The condition (K,), as numbers: only what differs is touched."""
        for name, old, new in zip(self.attributes, self.values, values, strict=True):
            if new != old:
                self._paint(name, new)
        self.values = values

    def _group(self, group: str, names) -> ipywidgets.Box:
        title = "choose one" if self.attributes.exclusive else group
        chips, dials = _box("chips", *map(self._chip, names)), _box("dials")
        turn = ipywidgets.Button(description="as sliders", tooltip=f"{title} as sliders")

        def turned(_):
            opening = dials.layout.display == "none"
            if opening and not dials.children:
                dials.children = [self._dial(name) for name in names]
            dials.layout.display, chips.layout.display = ("flex", "none") if opening else ("none", "")
            turn.description = "as buttons" if opening else "as sliders"
            turn.tooltip = f"{title} {turn.description}"

        turn.on_click(turned)
        turn.add_class("facelab-turn")
        dials.layout.display = "none"
        return _box("group", _box("group-head", _html(f"<b>{html.escape(title)}</b>"), turn), chips, dials)

    def _chip(self, name: str) -> ipywidgets.Box:
        hint = f"{name.replace('_', ' ')}: not said; {self._hint(name)}"
        yes = ipywidgets.Button(description=name.replace("_", " "), tooltip=hint, **self._common)
        yes.on_click(lambda _: self._press(name, 1.0))
        yes.add_class("facelab-yes")
        buttons = [yes]
        if not self.attributes.exclusive:
            no = ipywidgets.Button(description=f"no {name.replace('_', ' ')}", tooltip=hint, **self._common)
            no.on_click(lambda _: self._press(name, -1.0))
            no.add_class("facelab-no")
            buttons.append(no)
        self.chips[name] = _box("chip", *buttons), *buttons
        return self.chips[name][0]

    def _dial(self, name: str) -> Dial:
        low = 0.0 if self.attributes.exclusive else -1.0
        dial = Dial(name.replace("_", " "), self.values[self.attributes.index(name)], low, 1.0, 0.1, self.live)
        dial.number.observe(lambda change: self.said(name, change["new"]), "value")
        self.dials[name] = dial
        return dial

    def _press(self, name: str, value: float) -> None:
        # Pressed again, it is unsaid.
        now = self.values[self.attributes.index(name)]
        self.said(name, 0.0 if now == value else value)

    def _paint(self, name: str, value: float) -> None:
        (chip, yes, *no), word = self.chips[name], name.replace("_", " ")
        for state, holds in (("is-yes", value > 0), ("is-no", value < 0)):
            (chip.add_class if holds else chip.remove_class)(f"facelab-{state}")
        yes.description = word if value in (-1, 0, 1) else f"{word} {value:g}"
        for button in (yes, *no):
            button.tooltip = f"{word}: {STATES.get(value) or f'{value:g}'}; {self._hint(name)}"
        if name in self.dials:
            self.dials[name].number.value = value

    def _hint(self, name: str) -> str:
        if (data := held(self.attributes)) is None:
            return name
        return f"{_percent(data[0][self.attributes.index(name)].item())} of the data's faces"


@contextlib.contextmanager
def _one_thread():
    """One thread for each picture: beside a busy neighbour two are many times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _figure(pictures: Tensor, request: Request | None, name: str, coarse: bool = False) -> str:
    what = "a digit" if len(pictures) and pictures.shape[1] == 1 else "a face"
    imgs = []
    for i, picture in enumerate(pictures):
        of = f", {i + 1} of {len(pictures)}" if len(pictures) > 1 else ""
        if request is None:
            alt = "Your picture, as small as the judge sees it"
        else:
            alt = f"{'A preview of ' if coarse else ''}{what}{of}, drawn for: {request.describe()}; seed {request.seed}"
        imgs.append(img(plots.show(picture, side=1).png, f"{alt[0].upper()}{alt[1:]}.", ""))
    caption = f"<figcaption>{html.escape(name)}</figcaption>" if name else ""
    return f'<figure class="facelab-of-{len(pictures)}"><div>{"".join(imgs)}</div>{caption}</figure>'


def _told(reading) -> str:
    name = html.escape(reading.name.replace("_", " "))
    if reading.of > 1:
        words = f"{name} in {reading.yes} of {reading.of}"
    else:
        words = f"{name} {'yes' if reading.yes else 'no'}"
    if not reading.asked:
        return words
    sign = "✓" if reading.obeyed else "✗"
    verdict = "as asked" if reading.obeyed else "not as asked"
    return f'<span class="facelab-{"obeyed" if reading.obeyed else "missed"}">{words} <span title="{verdict}">{sign}</span></span>'


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.095 else f"{100 * share:.0f} %"


def _code(lines: str) -> str:
    # Where the page may not copy by itself, the lines are at least marked.
    copy = (
        "const code = this.nextElementSibling; navigator.clipboard.writeText(code.innerText)"
        ".then(() => { this.innerText = 'Copied' }, () => getSelection().selectAllChildren(code))"
    )
    return (
        f'<div class="facelab-code"><button type="button" onclick="{copy}">Copy</button>'
        f'<pre tabindex="0" aria-label="four lines that draw the same picture">{html.escape(lines)}</pre></div>'
    )


def _note(words: str, kind: str = "") -> str:
    return f'<div class="facelab-words {kind}" role="status">{html.escape(words)}</div>'


def _sentence(fault: Exception) -> str:
    words = str(fault).strip().split("\n")[0]
    if isinstance(fault, MemoryError) or "out of memory" in words or "allocate memory" in words:
        return "There is not enough memory for this: show one instead of four, or close other notebooks."
    return words or type(fault).__name__


def _html(code: str) -> ipywidgets.HTML:
    return ipywidgets.HTML(code)


def _box(kind: str, *children) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(f"facelab-{kind}")
    return box
