"""A real JupyterLab on this machine and a real Chromium before it: `notebook(source)` runs one cell and gives the page.

The environment variable CHROMIUM names another browser than Debian's, PAGES=notebook takes Notebook 7 for JupyterLab, and
FACELAB_JUPYTER another environment's `jupyter`, with its own kernel and its own page side. Nothing is fetched from outside.
ipywidgets 7, as Colab has it, is tried so:

    python -m venv lab3
    lab3/bin/python -m pip install -e . "jupyterlab==3.6.*" "jupyterlab_widgets<2" "ipywidgets==7.7.1" \\
        "ipykernel<7" "ipython==7.34.*"
    FACELAB_JUPYTER=lab3/bin/jupyter python -m pytest -m slow tests/browser

and Notebook 7 by `pip install notebook`, then `PAGES=notebook python -m pytest -m slow tests/browser`.
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import nbformat
import pytest

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
SWITCHES = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-dev-shm-usage""".split()
# Where a notebook is opened, the package, and the trait by which the page shows itself to a test.
PAGES = {"lab": ("doc/tree", "jupyterlab", "LabApp"), "notebook": ("notebooks", "notebook", "JupyterNotebookApp")}
PLACE, PACKAGE, APP = PAGES[FRONT := os.environ.get("PAGES", "lab")]
JUPYTER = os.environ.get("FACELAB_JUPYTER")
KNOWN = "undefined (reading 'schema')"  # Notebook 7 stumbles so over its own settings, for a bare 1 + 1 too
PATIENCE = 120_000  # ms; a busy machine with two cores starts a kernel that imports torch in half a minute
RUN = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
    await panel.sessionContext.session.kernel.info;
    await app.commands.execute('notebook:run-all-cells');
}"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """(address, notebook folder) of a JupyterLab that does not read this user's settings."""
    if JUPYTER and not shutil.which(JUPYTER):
        skip_with_warning(f"there is no {JUPYTER} (FACELAB_JUPYTER)")
    if not JUPYTER and importlib.util.find_spec(PACKAGE) is None:
        skip_with_warning(f"{PACKAGE} is not installed (pip install {PACKAGE})")
    home = tmp_path_factory.mktemp("lab")
    root, settings = home / "notebooks", home / "settings/@jupyterlab/apputils-extension"
    root.mkdir()
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    own |= {f"JUPYTER_{what}_DIR": what.lower() for what in ("CONFIG", "DATA", "RUNTIME")}
    env = os.environ | {name: str(home / folder) for name, folder in own.items()}
    env["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), env.get("PYTHONPATH", "")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    switches = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"]
    switches += [f"--ServerApp.root_dir={root}", "--IdentityProvider.token=", f"--{APP}.expose_app_in_browser=True"]
    log = (home / "log").open("wb")
    command = [JUPYTER, FRONT] if JUPYTER else [sys.executable, "-m", PACKAGE]
    server = subprocess.Popen([*command, *switches], env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert server.poll() is None, f"{PACKAGE} stopped: {(home / 'log').read_text()[-2000:]}"
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{address}/api", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address, root
    finally:
        server.terminate()
        server.wait(30)
        log.close()


@pytest.fixture(scope="session")
def browser():
    """Chromium with no screen."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        skip_with_warning("playwright is not installed (pip install playwright)")
    if not shutil.which(CHROMIUM):
        skip_with_warning(f"there is no {CHROMIUM} (apt-get install chromium, or set CHROMIUM to yours)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


def skip_with_warning(why: str):
    """Skip, and stand in pytest's summary of warnings too, where a skip's reason does not stand."""
    warnings.warn(f"NO BROWSER TEST WAS RUN: {why}", stacklevel=2)
    pytest.skip(f"NO BROWSER TEST WAS RUN: {why}")


def is_ours(rule: str, node: str) -> bool:
    """Whether axe's complaint is ours: the handle of ipywidgets' slider has no name, for the field beside it has one."""
    return not (rule == "aria-input-field-name" and re.match(r'<div class="noUi-handle\b', node))


@pytest.fixture(scope="session")
def complaints():
    """complaints(locator) -> what axe finds there that is serious and ours, [(rule, html)]."""
    if (axe := importlib.util.find_spec("axe_playwright_python")) is None:
        skip_with_warning("axe is not installed (pip install axe-playwright-python)")
    script = Path(axe.origin).with_name("axe.min.js").read_text("utf-8")

    def found(locator) -> list[tuple[str, str]]:
        locator.page.evaluate(script)
        rules = locator.page.evaluate("e => axe.run(e)", locator.element_handle())["violations"]
        grave = [
            (rule["id"], node) for rule in rules if rule["impact"] in ("serious", "critical") for node in rule["nodes"]
        ]
        return [(rule, node["html"][:200]) for rule, node in grave if is_ours(rule, node["html"])]

    return found


@pytest.fixture
def notebook(browser, lab, request):
    """notebook(source) -> the page of a new notebook whose one cell holds `source` and has begun to run.

    A path in place of a source is a saved notebook, shown as it was saved until `page.evaluate(notebook.run)`.
    """
    address, root = lab
    pages, faults = [], []

    def run(source: str | Path, width: int = 1200, height: int = 1000):
        name = f"{request.node.name}-{len(pages)}.ipynb"
        if saved := isinstance(source, Path):
            shutil.copy(source, root / name)
        else:
            metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            cells = [nbformat.v4.new_code_cell(source)]
            nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), root / name)
        page = browser.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda fault: faults.append(fault) if KNOWN not in fault.message else None)
        page.goto(f"{address}/{PLACE}/{name}")
        page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext")
        if not saved:
            page.evaluate(RUN)
        return page

    run.run = RUN
    yield run
    for page in pages:
        # Its kernel holds torch, half a gigabyte.
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        page.close()
    assert not faults, f"the page's own script failed: {faults}"
