"""The attribute explorer in a real JupyterLab, used as a person uses it, with the digits, the lightest of the weights.

The tests run by `pytest -m slow`. Controls are found by the names that a screen reader
reads. `FACES=celeba` takes the faces in place of the digits where a test needs neither in particular; SCREENSHOTS names a folder
that keeps what was shown.
"""

import base64
import io
import json
import os
import random
import statistics
import types
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image
from slider import Slider

from facelab.attributes import CELEBA, DIGITS, SYNTHETIC
from facelab.images import open_image
from facelab.pretrained import load
from facelab.widgets.explorer import CLASSIFIERS, FIRST_SEED

pytestmark = pytest.mark.slow

ATTRIBUTES = {"mnist": DIGITS, "celeba": CELEBA, "synthetic": SYNTHETIC}
MODEL = os.environ.get("FACES", "mnist")
SOURCE = f"""import facelab

explorer = facelab.AttributeExplorer(facelab.load("{MODEL}"))
explorer"""
# What is cut off, and what lies outside the explorer's own width.
CUT = """e => [...e.querySelectorAll('label, button, select, input, pre, figcaption, .facelab-text')].filter(
    e => e.offsetParent && !e.matches('.facelab-no') && e.scrollWidth > e.clientWidth + 1).map(e => e.outerHTML)"""
# How much of the face is on the page and above the fold, from 0 to 1.
VISIBLE = """e => { const box = e.getBoundingClientRect(), view = e.closest('.jp-WindowedPanel-outer, .jp-Notebook')
    const inside = view ? view.getBoundingClientRect() : {top: 0, bottom: innerHeight}
    return (Math.min(box.bottom, inside.bottom, innerHeight) - Math.max(box.top, inside.top, 0)) / box.height }"""
FIRST, SECOND = ("3", "7") if MODEL == "mnist" else ("Smiling", "Blond Hair")
PANELS = ("Attributes", "Sampling", "Interpolation", "Your image", "Save")


class Person:
    """Looks at an explorer and uses it."""

    def __init__(self, page, at=0):
        self.page, self.out = page, page.locator(".facelab-explorer").nth(at)
        self.out.get_by_role("img").first.wait_for()
        self.finished()

    def button(self, name):
        exact = name in (FIRST, SECOND, *PANELS) or name.startswith("no ")
        return self.out.get_by_role("button", name=name, exact=exact)

    def field(self, name):
        return self.out.get_by_role("spinbutton", name=name, exact=True)

    def slider(self, name):
        """The one beside that field."""
        return Slider(self.field(name))

    def link(self) -> str:
        return self.out.get_by_role("img").last.get_attribute("src")

    def finished(self, condition: str | None = None, unlike: str = "") -> str:
        """The text, once the finished image of that condition is shown, and it is not the image with that link."""
        self.page.wait_for_function(
            """([e, condition, unlike]) => {
                const text = e.querySelector('.facelab-stage').innerText, imgs = e.querySelectorAll('.facelab-figures img')
                const alt = imgs.length ? imgs[imgs.length - 1].alt : 'A preview'
                return text.includes('The classifier predicts') && !/Step [0-9]+ of/.test(text) && !alt.includes('A preview')
                    && (condition === null || alt.includes(`: ${condition};`)) && imgs[imgs.length - 1].src != unlike
            }""",
            arg=[self.out.element_handle(), condition, unlike],
        )
        return self.out.locator(".facelab-stage").inner_text()

    def pixels(self) -> list[Image.Image]:
        """The images as they came."""
        links = [image.get_attribute("src") for image in self.out.get_by_role("img").all()]
        return [Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) for link in links]


def probabilities(image: Image.Image, model: str = MODEL) -> torch.Tensor:
    classifier = load(CLASSIFIERS[ATTRIBUTES[model]]).classifier
    channels, size, _ = classifier.shape
    return classifier.predict_proba(open_image(image, size, grey=channels == 1))[0]


def test_every_control(notebook, tmp_path):
    person = Person(notebook(SOURCE, 1280, 1000))
    page = person.page
    before = person.pixels()[0]

    # The mouse, on a name; the classifier, which sees the pixels only, predicts it.
    person.button(SECOND).click()
    text = person.finished(SECOND)
    index = ATTRIBUTES[MODEL].index(SECOND.replace(" ", "_"))
    after = person.pixels()[0]
    assert probabilities(after)[index] > max(0.5, probabilities(before)[index]) and f"{SECOND} yes ✓" in text

    # The keyboard alone, from one control to the next.
    person.button(SECOND).focus()
    page.keyboard.press("Space")
    person.finished("unconditional")
    person.button("New seed").focus()
    page.keyboard.press("Enter")
    person.finished("unconditional", unlike=person.link())
    other = person.link()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    person.finished("unconditional", unlike=other)
    assert person.pixels()[0].tobytes() == before.tobytes()

    # A group becomes sliders with a field beside each; typing moves both.
    person.button("as sliders").first.click()
    first = next(iter(ATTRIBUTES[MODEL].groups.values()))[0].replace("_", " ")
    person.field(first).fill("0.5")
    page.keyboard.press("Enter")
    person.finished(f"{first} 0.5")
    assert person.slider(first).place == 0.5
    person.slider(first).press("ArrowRight", value="0.6")
    person.finished(f"{first} 0.6")
    person.button("as buttons").first.click()

    # Four images, and the same noise without the condition.
    person.button("Sampling").click()
    person.out.get_by_role("combobox", name="show").select_option("four images")
    page.wait_for_function("e => e.querySelectorAll('img').length == 4", arg=person.out.element_handle())
    person.out.get_by_role("checkbox").check()
    page.wait_for_function("e => e.querySelectorAll('img').length == 8", arg=person.out.element_handle())
    person.finished()
    assert person.out.get_by_text("unconditional, same noise").count() == 1
    assert len({image.tobytes() for image in person.pixels()}) == 8
    person.button("Reset").click()
    person.finished("unconditional")
    assert person.field("seed").input_value() == f"{FIRST_SEED}"

    # Interpolation.
    person.button("Attributes").click()
    person.button(FIRST).click()
    person.finished(FIRST)
    person.button("Interpolation").click()
    person.button("From the current condition").click()
    person.button("Attributes").click()
    if MODEL != "mnist":
        person.button(FIRST).click()
    person.button(SECOND).click()
    person.finished(SECOND)
    person.button("Interpolation").click()
    person.button("To the current condition").click()
    person.field("position").fill("0.5")
    page.keyboard.press("Enter")
    person.finished(", ".join(sorted(f"{name} 0.5" for name in (FIRST, SECOND))))

    # An image of one's own, and a file that is none.
    person.button("Your image").click()
    assert person.out.get_by_text("never leaves this machine").count() == 1
    after.resize((100, 120)).save(tmp_path / "own.png")
    (tmp_path / "none.png").write_bytes(b"not an image")

    def choose(file):
        with page.expect_file_chooser() as chooser:
            person.button("Choose an image").click()
        chooser.value.set_files(file)

    choose(tmp_path / "own.png")
    person.out.get_by_text("your image", exact=True).wait_for()
    person.finished()
    choose(tmp_path / "none.png")
    person.out.get_by_text("cannot be read as an image").wait_for()
    person.button("Reset").click()
    person.finished("unconditional")
    assert person.out.get_by_text("This did not work").count() == 0

    # Save.
    person.button("Attributes").click()
    person.button(SECOND).click()
    person.finished(SECOND)
    person.button("Save").click()
    person.button("Save the PNG").click()
    person.out.get_by_text("Saved as facelab-1.png").wait_for()
    lines = person.out.locator("pre").inner_text()
    assert lines.count("\n") == 3 and json.dumps(SECOND.replace(" ", "_")) in lines


def test_the_face_follows_seed_guidance_and_both_values(notebook):
    model = "synthetic" if MODEL == "mnist" else MODEL
    person = Person(notebook(SOURCE.replace(f'"{MODEL}"', f'"{model}"'), 1280, 1000))
    page, condition = person.page, "unconditional"
    for field, value in (("seed", "11"), (None, "Smiling"), ("guidance scale", "4"), ("steps", "8")):
        before = person.link()
        person.button("Sampling" if field else "Attributes").click()
        if field is None:
            person.out.get_by_role("button", name="Smiling", exact=True).click()
            condition = "Smiling"
        else:
            person.field(field).fill(value)
            page.keyboard.press("Enter")
        person.finished(condition, unlike=before)
        assert "; seed 11." in person.out.get_by_role("img").last.get_attribute("alt")
    assert person.slider("guidance scale").place == 4 and person.slider("steps").place == 8, "the sliders follow"
    person.button("Attributes").click()
    found = []
    for button, condition in (
        ("no Eyeglasses", "no Eyeglasses, Smiling"),
        ("Eyeglasses", "Eyeglasses, Smiling"),
        ("no Smiling", "Eyeglasses, no Smiling"),
    ):
        person.out.get_by_role("button", name=button, exact=True).click()
        person.finished(condition)
        found.append(probabilities(person.pixels()[0], model))
    eyeglasses, smiling = (ATTRIBUTES[model].index(name) for name in ("Eyeglasses", "Smiling"))
    assert found[1][eyeglasses] > found[0][eyeglasses] and found[1][smiling] > found[2][smiling]


def test_the_notebook_of_the_explorer(notebook):
    """One folded cell: readers see the still, and whoever runs it gets faces that follow the condition."""
    page = notebook(Path(__file__).parents[2] / "notebooks/attribute_explorer.ipynb", 1280, 1400)
    page.get_by_role("img", name="Faces from one noise").wait_for()
    assert page.get_by_text("explorer = AttributeExplorer(").count() == 0, "the code is folded"
    page.evaluate(notebook.run)
    person, names = Person(page), ("Eyeglasses", "Blond_Hair")
    found = [probabilities(person.pixels()[0], "celeba")]
    for name in names:
        person.button("Reset").click()
        person.out.get_by_role("button", name=name.replace("_", " "), exact=True).click()
        person.finished(name.replace("_", " "))
        found.append(probabilities(person.pixels()[0], "celeba"))
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "explorer-page.png")
    eyeglasses, blond = map(CELEBA.index, names)
    assert found[1][eyeglasses] > found[0][eyeglasses] and found[2][blond] > max(0.5, found[0][blond])


def test_the_face_stays_in_view_while_any_control_is_used(notebook, tmp_path):
    # Something to scroll to. Notebook 7 puts output of more than 1,820 pixels into a box of its own.
    below = "from IPython.display import HTML, display\n\ndisplay(explorer, HTML('<p style=\"height: 800px\">.</p>'))"
    faces = SOURCE.replace(f'"{MODEL}"', '"celeba"').removesuffix("explorer")
    person = Person(notebook(faces + below, 1400, 1000))
    page, folder = person.page, Path(os.environ.get("SCREENSHOTS", tmp_path))
    face = person.out.locator(".facelab-stage > .widget-html").first  # it holds the images, which change
    for width, height in ((1400, 1000), (1366, 768), (768, 1024), (420, 800)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1000)

        def visible(what, size=f"{width} x {height}"):
            assert face.evaluate(VISIBLE) > 0.9, f"the face is out of view at {what!r}, {size}"

        person.button("Attributes").click()
        person.out.get_by_title("Attributes, shown").wait_for()
        person.out.evaluate("e => e.scrollIntoView()")
        for name in ("Bald", "no Smiling", "Wearing Necktie", "Blurry"):
            person.out.get_by_role("button", name=name, exact=True).focus()  # as the Tab key does, it scrolls there
            person.out.get_by_role("button", name=name, exact=True).click()
            visible(name)
        page.screenshot(path=folder / f"explorer-view-{width}.png")
        person.button("as sliders").last.click()
        person.field("Blurry").wait_for()
        person.field("Blurry").focus()
        visible("Blurry")
        person.button("as buttons").last.click()
        box = person.out.locator(".facelab-scroll").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for _ in range(3):  # beyond the end of the controls
            page.mouse.wheel(0, 2000)
            page.wait_for_timeout(500)
            visible("the wheel")
        for panel in PANELS[1:]:
            person.button(panel).click()
            person.out.get_by_title(f"{panel}, shown").wait_for()
            last = person.out.locator(".facelab-scroll").locator("input, button, pre").locator("visible=true").last
            last.scroll_into_view_if_needed()
            visible(panel)
        person.button("Reset").click()


def test_500_moves_leave_the_memory_flat(notebook):
    """In the kernel and in the page."""
    person, rng = Person(notebook(SOURCE)), random.Random(0)
    running = [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]
    kernels = [process for process in running if any("ipykernel" in word for word in process.cmdline())]
    kernel = max(kernels, key=psutil.Process.create_time)  # those of earlier tests may still be ending
    chrome = person.page.context.new_cdp_session(person.page)
    fields = {"seed": range(9), "guidance scale": (0, 1, 3), "steps": (1, 3, 10)}

    def memory() -> tuple[float, float, int]:
        person.finished()
        chrome.send("HeapProfiler.collectGarbage")
        heap, nodes = chrome.send("Runtime.getHeapUsage")["usedSize"], chrome.send("Memory.getDOMCounters")["nodes"]
        return kernel.memory_info().rss / 1e6, heap / 1e6, nodes

    for turn in range(500):
        if turn == 100:
            early = memory()
        if rng.random() < 0.7:
            name = rng.choice((FIRST, SECOND, "New seed", "Reset"))
            if name in (FIRST, SECOND):
                person.button("Attributes").click(no_wait_after=True)
            person.button(name).click(no_wait_after=True)
        else:
            field = rng.choice(list(fields))
            person.button("Sampling").click(no_wait_after=True)
            person.field(field).fill(str(rng.choice(fields[field])))
            person.page.keyboard.press("Enter")
    late = memory()
    print(f"\nkernel and page in MB, nodes: {early} after 100 moves, {late} after 500")
    assert late[0] - early[0] < 50 and late[1] - early[1] < 20 and late[2] < 1.1 * early[2] + 200
    assert person.out.get_by_text("This did not work").count() == 0


def test_ten_moves_in_a_second_end_in_the_last_one(notebook):
    person = Person(notebook(SOURCE))
    for turn in range(9):
        person.button((FIRST, SECOND)[turn % 2]).click(no_wait_after=True)
    person.button("Reset").click()
    person.button(SECOND).click()
    person.finished(SECOND)
    once = person.pixels()[0].tobytes()
    person.page.wait_for_timeout(1500)
    assert person.pixels()[0].tobytes() == once, "nothing older follows"
    person.button("Reset").click()
    person.finished("unconditional")
    person.button(SECOND).click()
    person.finished(SECOND)
    assert person.pixels()[0].tobytes() == once


def test_two_at_once_and_a_restarted_kernel(notebook):
    more = "from IPython.display import display\ndisplay(explorer, facelab.AttributeExplorer(explorer.sampler.model))"
    page = notebook(f"{SOURCE}\n{more}")
    one, two = Person(page), Person(page, 1)
    one.button(FIRST).click(no_wait_after=True)
    two.button(SECOND).click(no_wait_after=True)
    one.finished(FIRST)
    two.finished(SECOND)
    one.button(SECOND).click(no_wait_after=True)
    page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.restartKernel() }")
    page.evaluate(notebook.run)
    page.wait_for_timeout(1000)
    page.wait_for_function("() => document.querySelectorAll('.facelab-explorer').length == 2")
    again = Person(page)
    again.button(SECOND).click()
    again.finished(SECOND)


def test_readable_in_both_themes_and_three_widths(notebook, complaints, tmp_path):
    person = Person(notebook(SOURCE))
    page, folder = person.page, Path(os.environ.get("SCREENSHOTS", tmp_path))
    person.button(SECOND).click()
    person.finished(SECOND)
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait_for_function("theme => document.body.dataset.jpThemeName == theme", arg=theme)
        for width in (1280, 700, 420):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(500)
            for panel in PANELS:
                person.button(panel).click()
                person.out.get_by_title(f"{panel}, shown").wait_for()
                page.screenshot(
                    path=folder / f"explorer-{MODEL}-{theme.split()[1]}-{width}-{panel.split()[0]}.png".lower()
                )
                assert person.out.evaluate(CUT) == [], f"cut off at {width} pixels"
            box = person.out.bounding_box()
            for image in person.out.get_by_role("img").all():
                inner = image.bounding_box()
                assert box["x"] <= inner["x"] and inner["x"] + inner["width"] <= box["x"] + box["width"] + 1
                assert "A generated" in image.get_attribute("alt") and inner["width"] > 100
        for panel in PANELS:
            person.button(panel).click()
            person.out.get_by_title(f"{panel}, shown").wait_for()
            assert complaints(person.out) == []


def test_only_the_handle_of_a_slider_is_excused(complaints):
    nodes = [
        ("aria-input-field-name", '<div class="noUi-handle noUi-handle-lower" role="slider">'),
        ("color-contrast", '<div class="noUi-handle noUi-handle-lower" role="slider">'),
        ("button-name", '<button title="hair as sliders"></button>'),
        ("aria-input-field-name", '<input title="a slider">'),
    ]
    found = {"violations": [{"id": rule, "impact": "serious", "nodes": [{"html": node}]} for rule, node in nodes]}
    page = types.SimpleNamespace(evaluate=lambda *_: found)
    assert complaints(types.SimpleNamespace(page=page, element_handle=lambda: None)) == nodes[1:]


def test_the_time_from_a_press_to_the_image(notebook):
    """No limit, because the machine may be busy; what was measured is printed (pytest -s)."""
    person = Person(notebook(SOURCE))
    person.page.evaluate("""e => {
        window.times = []
        const stage = e.querySelector('.facelab-figures').parentElement
        new MutationObserver(() => { const img = stage.querySelector('img')
            img.decode().then(() => window.times.push([performance.now(), img.alt])) })
            .observe(stage, {childList: true, subtree: true, characterData: true})
    }""", person.out.element_handle())  # fmt: skip
    preview, finished = [], []
    for turn in range(8):
        start = person.page.evaluate("window.times = [], performance.now()")
        person.button((FIRST, SECOND)[turn % 2]).click()
        person.page.wait_for_function("window.times.some(([_, alt]) => !alt.includes('A preview'))")
        times = person.page.evaluate("window.times")
        preview.append(times[0][0] - start)
        finished.append(times[-1][0] - start)
        person.button("New seed").click()
        person.page.wait_for_timeout(300)
        person.finished()
    first, last = statistics.median(preview), statistics.median(finished)
    print(f"\n{MODEL}: first pixels {first:.0f} ms, the finished image {last:.0f} ms")
    assert len(preview) == 8
