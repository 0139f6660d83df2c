"""The site, built from the saved notebooks and opened without a network: images, formulas, search, both themes, axe."""

import functools
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import skip_with_warning

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["index", "02_mnist_ddpm", "04_guidance_and_interpolation", "glossary", "teachers", "api"]
pytestmark = pytest.mark.slow


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A static server that does not log."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of the built site on this machine."""
    if not all(map(importlib.util.find_spec, ("sphinx", "myst_nb", "furo"))) or not shutil.which("npm"):
        skip_with_warning("the site needs npm and the extra `site` (pip install -e '.[site]')")
    out = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, ROOT / "notebooks/make.py", "site", out], check=True, timeout=1200)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=out))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def page(browser, address):
    """A page whose errors and requests to other machines fail the test at its end."""
    page, faults = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.on("pageerror", lambda fault: faults.append(fault.message))
    page.on("response", lambda answer: answer.status >= 400 and faults.append(f"{answer.status} {answer.url}"))
    page.on("request", lambda sent: sent.url.startswith((address, "data:")) or faults.append(f"external: {sent.url}"))
    yield page
    page.close()
    assert [fault for fault in faults if "favicon" not in fault and "404 (File not found)" not in fault] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_all_its_images_and_formulas_and_asks_no_other_machine(page, address, name):
    page.goto(f"{address}{name}.html")
    page.wait_for_function("[...document.images].every(image => image.complete)")
    assert (
        page.evaluate("[...document.images].filter(i => !i.naturalWidth || i.alt === '').map(i => i.src.slice(0, 80))")
        == []
    )
    if name.startswith("0"):
        page.wait_for_selector("mjx-container svg", state="attached")
        assert "\\text{signal}" not in page.inner_text("article")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_search_finds_a_term(page, address):
    page.goto(f"{address}search.html?q=autoguidance")
    page.wait_for_selector("#search-results a")
    assert "autoguidance" in page.inner_text("#search-results").lower()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "02_mnist_ddpm"])
def test_axe_finds_nothing_serious(page, address, complaints, name, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(f"{address}{name}.html")
    assert complaints(page.locator("article")) == []
