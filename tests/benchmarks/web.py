"""How fast the explorer's web page is: `python tests/benchmarks/web.py SITE [rounds]`, where `make.py site SITE` has built it.

Headless Chromium, WebAssembly, wall-clock seconds. Aims: the networks ready 4 s after the files have arrived, a digit in 1 s, a
preview of a face in 2 s, a face of 10 guided steps in 8 s, and the same memory after 100 images.
"""

import functools
import http.server
import os
import statistics
import sys
import threading
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FINISHED = "document.getElementById('stage').ariaBusy === 'false' && document.getElementById('status').innerText != ''"
# From a press on a button to the preview and to the finished image, in milliseconds.
PRESS = """id => new Promise(done => {
    const start = performance.now(), status = document.getElementById('status'), found = {}
    new MutationObserver((_, observer) => {
        if (status.innerText.startsWith('A preview')) found.preview ??= performance.now() - start
        if (!status.innerText.startsWith('Finished')) return
        observer.disconnect()
        done({...found, finished: performance.now() - start})
    }).observe(status, {childList: true})
    document.getElementById(id).click()
})"""


class Server(http.server.SimpleHTTPRequestHandler):
    """A static server that does not log; with HEADERS=threads it sends the headers that let a page use threads."""

    def log_message(self, *args):
        pass

    def end_headers(self):
        if os.environ.get("HEADERS") == "threads":
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


def megabytes() -> float:
    """Memory of the browser's largest process, which is the page's."""
    children = psutil.Process().children(recursive=True)
    return (
        max((child.memory_info().rss for child in children if "renderer" in " ".join(child.cmdline())), default=0) / 1e6
    )


def measure(page, address: str, rounds: int) -> dict[str, float]:
    found = {"ready": [], "digit": [], "preview": [], "face": []}
    for _ in range(rounds):
        for model, button in ("celeba", "face"), ("mnist", "digit"):
            page.goto("about:blank")
            page.goto(
                f"{address}#model={model}&seed=5&steps=10&guidance_scale=2&{'7' if model == 'mnist' else 'Smiling'}=1"
            )
            page.wait_for_function(FINISHED)
            found["ready"] += [float(page.evaluate("document.body.dataset.celeba"))] if model == "celeba" else []
            page.wait_for_function("document.body.dataset.mnist")
            times = page.evaluate(PRESS, "person")
            found[button].append(times["finished"] / 1000)
            found["preview"] += [times["preview"] / 1000] if model == "celeba" else []
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    memory = [megabytes()]
    for i in range(100):
        page.evaluate(PRESS, "person")
        memory += [megabytes()] if i in (19, 99) else []
    return medians | {f"MB after {n} images": size for n, size in zip((0, 20, 100), memory, strict=True)}


def main(site: str, rounds: str = "3") -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=Path(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        found = measure(page, f"http://127.0.0.1:{server.server_port}/explorer/index.html", int(rounds))
        print(page.inner_text("#machine"), f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
        browser.close()
    server.shutdown()
    for name, value in found.items():
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
