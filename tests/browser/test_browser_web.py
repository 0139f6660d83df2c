"""The explorer's web page in a real Chromium, from a local static server; the tests run by `pytest -m slow`.

SITE names a folder that `notebooks/make.py site` has built, otherwise the page is built first. SCREENSHOTS names a folder for what
was shown.
"""

import functools
import http.server
import importlib.util
import io
import json
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import skip_with_warning
from PIL import Image

from facelab.images import to_uint8
from facelab.pretrained import load
from facelab.samplers import generate

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
FINISHED = "document.getElementById('stage').ariaBusy === 'false' && document.getElementById('status').innerText != ''"
PIXELS = """id => { const it = document.getElementById(id)
    return [...it.getContext('2d').getImageData(0, 0, it.width, it.height).data] }"""
DIGIT = "#model=mnist&seed=5&guidance_scale=2&steps=10&3=1"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that does not log."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the built page on this machine."""
    if not (site := os.environ.get("SITE")):
        if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))) or not shutil.which("npm"):
            skip_with_warning("the page needs npm and the extra `site` (pip install -e '.[site]')")
        spec = importlib.util.spec_from_file_location("make", ROOT / "notebooks/make.py")
        make = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(make)
        site = tmp_path_factory.mktemp("site")
        assert make.web_explorer(site / "explorer") == 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/explorer/"
    server.shutdown()


class Visitor:
    """Opens the page, waits, and looks."""

    def __init__(self, page, address):
        self.page, self.address, self.requests = page, address, []
        page.set_default_timeout(120_000)
        page.context.on("request", lambda sent: self.requests.append(sent.url))

    def open(self, link=DIGIT):
        self.page.goto(f"{self.address}index.html{link}")
        return self.finished()

    def finished(self):
        self.page.wait_for_function(FINISHED)
        return self

    def image(self, id="image"):
        pixels = np.array(self.page.evaluate(PIXELS, id), dtype=np.uint8)
        side = round((len(pixels) // 4) ** 0.5)
        return pixels.reshape(side, side, 4)[..., :3]

    def press(self, name):
        self.page.get_by_role("button", name=name, exact=True).click()
        return self.finished()

    def error(self):
        self.page.wait_for_selector("body.failed")
        return self.page.inner_text("#error")


@pytest.fixture
def visitor(browser, address):
    """A visitor whose page makes no request to another machine and reports no error of its scripts."""
    context = browser.new_context(viewport={"width": 1366, "height": 768}, accept_downloads=True)
    page, faults = context.new_page(), []
    page.on("pageerror", lambda fault: faults.append(fault.message))
    visitor = Visitor(page, address)
    yield visitor
    context.close()
    assert faults == []
    assert [url for url in visitor.requests if not url.startswith((address, "data:", "blob:"))] == []


def test_the_same_seed_gives_the_same_digit_as_the_package(visitor):
    found = visitor.open().image()
    model = load("mnist")
    images = generate(model, {"3": True}, guidance_scale=2, steps=10, seed=5)
    expected = to_uint8(images)[0, 0].numpy()
    assert np.abs(found[..., 0].astype(float) - expected).mean() <= 1
    assert "generated digit: 3; seed 5" in visitor.page.get_attribute("#image", "aria-label")


def test_the_same_seed_gives_the_same_face_as_the_package(visitor):
    found = visitor.open("#model=celeba&seed=2147483648&steps=4&guidance_scale=3&Smiling=1&Male=-0.5").image()
    images = generate(load("celeba"), {"Smiling": 1, "Male": -0.5}, guidance_scale=3, steps=4, seed=2**31)
    assert np.abs(found - to_uint8(images)[0].permute(1, 2, 0).numpy().astype(float)).mean() <= 1


def test_a_control_changes_the_image_and_the_link_restores_it(visitor):
    page, first = visitor.open("").page, visitor.image()
    assert first.std() > 10 and page.get_by_role("button", name="Faces").get_attribute("aria-pressed") == "true"
    changed = visitor.press("no Smiling").image()
    assert np.abs(changed - first.astype(float)).mean() > 1
    assert page.inner_text("#condition") == "no Smiling, Young; seed 5"
    page.get_by_role("button", name="degrees: hair").click()
    page.get_by_role("slider", name="Blond Hair").fill("0.5")
    degree = visitor.finished().image()
    page.wait_for_function("location.hash.includes('Blond_Hair=0.5')")
    link = page.evaluate("location.hash")
    page.goto("about:blank")
    assert (visitor.open(link).image() == degree).all()
    assert page.inner_text("#condition") == "Blond Hair 0.5, no Smiling, Young; seed 5"
    assert page.get_by_role("button", name="Blond Hair 0.5").get_attribute("aria-pressed") == "true"
    visitor.press("Another person")
    assert (visitor.image() != degree).any()
    visitor.press("Surprise me")
    visitor.press("Clear all")
    assert page.inner_text("#condition").startswith("unconditional; seed")


def test_both_models_are_loaded_once_and_nothing_is_requested_afterwards(visitor):
    page = visitor.open("#model=celeba&seed=5&steps=2").page
    page.wait_for_function("document.body.dataset.mnist")
    before = len(visitor.requests)
    digits = visitor.press("Digits").image()
    assert digits.shape == (28, 28, 3)
    assert visitor.press("7").press("Faces").image().shape == (64, 64, 3)
    page.get_by_label("compare with the same noise").check()
    visitor.finished()
    assert visitor.requests[before:] == []


def test_comparison_shows_the_same_noise_without_the_condition(visitor):
    page = visitor.open().page
    page.get_by_label("compare with the same noise").check()
    unconditional = visitor.finished().image("plain")
    assert page.locator("#plain").is_visible() and (unconditional != visitor.image()).any()
    assert (visitor.press("3").image() == unconditional).all()


def test_a_film_goes_from_one_state_to_another_and_stops(visitor):
    page = visitor.open().page
    visitor.press("Start here").press("8")
    page.get_by_label("Seed of the noise").fill("9")
    visitor.finished().press("End here")
    assert page.inner_text("#ends") == "From: 3, seed 5. To: 8, seed 9."
    last = visitor.image()
    visitor.press("Play the film")
    seen = set()
    for _ in range(8):
        seen.add(visitor.image().tobytes())
        page.wait_for_timeout(150)
    assert len(seen) >= 3
    assert (visitor.press("Stop the film").image() == last).all()


def test_a_saved_file_holds_the_image_and_its_recipe(visitor):
    page = visitor.open().page
    with page.expect_download() as download:
        page.get_by_role("button", name="Save PNG").click()
    assert download.value.suggested_filename == "facelab-mnist-5.png"
    image = Image.open(io.BytesIO(Path(download.value.path()).read_bytes()))
    image.load()
    record = json.loads(image.text["facelab"])
    assert record["cond"] == {"3": 1} and record["seed"] == 5 and record["sha256"] == load("mnist").card["sha256"]
    assert (
        "not a photograph" in image.text["Description"] and "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
    )
    assert (np.asarray(image.convert("RGB"))[4::8, 4::8] == visitor.image()).all()


def test_everything_can_be_done_by_keyboard(visitor):
    page = visitor.open().page
    page.get_by_role("button", name="8", exact=True).focus()
    page.keyboard.press("Space")
    visitor.finished()
    assert page.inner_text("#condition") == "8; seed 5" and page.evaluate("document.activeElement.innerText") == "8"
    page.get_by_label("Steps").focus()
    page.keyboard.press("ArrowLeft")
    assert visitor.finished().page.inner_text("#status").startswith("Finished: 9 steps")
    bare = "e => e.checkVisibility() && !(e.ariaLabel || e.innerText || e.labels?.length)"
    assert page.evaluate(f"[...document.querySelectorAll('button, input, canvas')].filter({bare}).map(e => e.id)") == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("link", [DIGIT, "#model=celeba&seed=5&steps=2&Bald=1&Smiling=-1&compare=true"])
def test_axe_finds_nothing_serious(visitor, complaints, theme, link):
    page = visitor.page
    page.emulate_media(color_scheme=theme)
    visitor.open(link)
    for degrees in page.get_by_role("button", name=re.compile("degrees: (hair|all)")).all():
        degrees.click()
        assert (
            degrees.get_attribute("aria-pressed") == "true"
            and page.locator(".chips:visible, .field:visible").count() > 5
        )
    page.locator("summary").click()
    assert complaints(page.locator("html")) == []


@pytest.mark.parametrize("size", [(360, 740), (768, 1024), (1366, 768), (1920, 1080)], ids=str)
def test_nothing_is_wider_than_the_window_and_the_image_stays_visible(visitor, size):
    page = visitor.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    visitor.open("#model=mnist&seed=5")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"web-{size[0]}.png")
    page.evaluate("document.getElementById('seed').scrollIntoView({block: 'center'})")
    page.wait_for_timeout(200)
    box = page.locator("#image").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= size[1] and box["width"] >= min(220, size[0] / 2)


@pytest.mark.parametrize("adapter", ["async () => { throw Error('refused') }", "async () => ({})"])
def test_a_refused_webgpu_is_replaced_by_webassembly(visitor, adapter):
    gpu = f"Object.defineProperty(navigator, 'gpu', {{value: {{requestAdapter: {adapter}}}}})"
    visitor.page.add_init_script(gpu)
    visitor.open()
    assert "WebAssembly in one thread, because WebGPU is not available here." in visitor.page.inner_text("#machine")


def test_autoguidance_is_offered_where_there_is_a_weak_network(visitor):
    def with_weak(route):
        manifest = route.fetch().json()
        manifest["files"]["weak"] = manifest["files"]["denoiser"]  # so at guidance scale 1 it changes nothing
        route.fulfill(json=manifest)

    page = visitor.open(DIGIT.replace("scale=2", "scale=1")).page
    assert not page.locator("#autoguidance").is_visible()
    first = visitor.image()
    page.context.route("**/mnist.json", with_weak)
    page.goto("about:blank")
    visitor.open(DIGIT.replace("scale=2", "scale=1"))
    page.get_by_label("autoguidance").check()
    assert np.abs(visitor.finished().image() - first.astype(float)).mean() < 0.1
    page.get_by_label("Guidance scale").fill("3")
    guided = visitor.finished().image()
    page.get_by_label("autoguidance").uncheck()
    assert (visitor.finished().image() != guided).any()
    page.wait_for_function("!location.hash.includes('autoguidance=true')")


def damaged(route):
    answer = route.fetch()
    route.fulfill(body=answer.body()[:-1] + b"x", status=200)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (lambda route: route.fulfill(status=404), "The file mnist.onnx could not be loaded (404)."),
        (lambda route: route.abort(), "The file mnist.onnx could not be loaded (no connection)."),
        (damaged, "The file mnist.onnx is damaged (its checksum is wrong), so the page does not use it."),
    ],
    ids=["missing", "no connection", "damaged"],
)
def test_a_bad_model_file_gives_one_sentence_and_a_film(visitor, fault, sentence):
    visitor.page.context.route("**/mnist.onnx*", fault)
    visitor.page.goto(f"{visitor.address}index.html{DIGIT}")
    assert visitor.error() == sentence
    assert visitor.page.evaluate("document.querySelector('#film-instead img').naturalWidth") > 0
    visitor.page.context.unroute("**/mnist.onnx*")
    visitor.page.get_by_role("button", name="Try again").click()
    assert visitor.finished().image().std() > 10


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("WebAssembly.validate = () => false", "too old"),
        (
            "globalThis.Worker = class { constructor() { setTimeout(() => this.onerror()) } postMessage() {} }",
            "too old",
        ),
        (
            "globalThis.Worker = class { postMessage() { setTimeout(() => this.onmessage({data: {error: 'No memory.'}})) } }",
            "No memory.",
        ),
        ("Object.defineProperty(crypto, 'subtle', {value: undefined})", "https"),
    ],
)
def test_a_browser_that_cannot_run_it_is_told_so_in_one_sentence(visitor, script, words):
    visitor.page.add_init_script(script)
    visitor.page.goto(f"{visitor.address}index.html")
    assert words in visitor.error() and visitor.page.locator("#again").is_visible()
