"""Pages and notebooks: their links lead somewhere, the glossary is in order and knows the exercises' lessons."""

import ast
import http.server
import json
import re
import threading
from collections import Counter
from pathlib import Path

import external_links
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / ".github/CONTRIBUTING.md",
    *sorted((ROOT / "notebooks").glob("*.md")),
    ROOT / "data/README.md",
    ROOT / "tests/benchmarks/README.md",
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
]


def texts(page: Path) -> list[str]:
    """What a page says; of a notebook every cell, of code the words in quotation marks."""
    if page.suffix != ".ipynb":
        return [page.read_text("utf-8")]
    found = []
    for cell in nbformat.read(page, 4).cells:
        if cell.cell_type == "markdown":
            found.append(cell.source)
        else:
            nodes = ast.walk(ast.parse(re.sub(r"^(\s*)[%!]", r"\1# ", cell.source, flags=re.MULTILINE)))
            found += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return found


def dead_links(page: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)|\b(?:src|href)=\"([^\"#]+)", "\n".join(texts(page)))
    links = [a or b for a, b in links]
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    assert dead_links(page) == []


def test_a_dead_link_is_noticed(tmp_path):
    page = '[a](page.md) [b](none.md#part) [c](https://host/none) [d](page.md#part) <img src="none.png" alt="x">'
    (tmp_path / "page.md").write_text(page)
    assert dead_links(tmp_path / "page.md") == ["none.md", "none.png"]


def test_a_dead_link_in_any_cell_of_a_notebook_is_noticed(tmp_path):
    new = nbformat.v4
    cells = [
        new.new_markdown_cell("[a](book.ipynb) [b](none.ipynb)"),
        new.new_code_cell("%time\nMarkdown('[c](nor_this.md)')\nf[0](x)"),
    ]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "book.ipynb")
    assert dead_links(tmp_path / "book.ipynb") == ["none.ipynb", "nor_this.md"]


# Links to other machines, which the nightly workflow asks


class Somewhere(http.server.BaseHTTPRequestHandler):
    asked: Counter

    def do_GET(self):
        self.asked[self.path, self.headers["User-Agent"]] += 1
        code = {"/here": 200, "/old": 301, "/no-robots": 403}.get(self.path.partition("?")[0], 404)
        self.send_response(code)
        if code == 301:
            self.send_header("Location", "/here")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def somewhere():
    Somewhere.asked = Counter()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Somewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_address_is_asked_once_and_the_dead_are_told(somewhere, tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "README.md").write_text(
        f"[a]({somewhere}/here), [a]({somewhere}/here#part), <{somewhere}/old>. `{somewhere}/none`; {somewhere}/no-robots."
    )
    book = {"cells": [{"cell_type": "markdown", "source": [f"[b]({somewhere}/lost_(page)) and", f" {somewhere}/here"]}]}
    (tmp_path / "notebooks/01_a.ipynb").write_text(json.dumps(book))
    assert external_links.main(tmp_path, patience=10) == 1
    told = capsys.readouterr().out
    assert f"DEAD: {somewhere}/none (404), in README.md\n" in told
    assert f"DEAD: {somewhere}/lost_(page) (404), in notebooks/01_a.ipynb\n" in told
    assert f"turned away: {somewhere}/no-robots (403), in README.md\n" in told
    assert told.count("\n") == 4 and told.endswith("5 addresses asked, 2 dead\n")
    agents = {agent for _, agent in Somewhere.asked}
    assert agents == {external_links.AGENT}
    # /here was asked for itself, and because /old leads there.
    assert sorted(Somewhere.asked.values()) == [1, 1, 1, 1, 2]


def test_all_alive_is_success_and_nobody_there_is_death(somewhere, tmp_path, capsys):
    (tmp_path / "README.md").write_text(f"{somewhere}/here https://b.example/OWNER/facelab https://a.example/{{}}")
    assert external_links.main(tmp_path) == 0 and "1 addresses asked, 0 dead" in capsys.readouterr().out
    with http.server.HTTPServer(("127.0.0.1", 0), Somewhere) as gone:
        nobody = f"http://127.0.0.1:{gone.server_port}/here"
    (tmp_path / "README.md").write_text(nobody)
    assert external_links.main(tmp_path) == 1 and f"DEAD: {nobody} (" in capsys.readouterr().out


def test_our_own_addresses_are_found_and_asked_at_night():
    where = external_links.collect()
    assert "https://creativecommons.org/licenses/by/4.0/" in where
    assert "notebooks/01_noise_schedules.ipynb" in where["https://colab.research.google.com/assets/colab-badge.svg"]
    assert "- run: python tests/external_links.py" in (ROOT / ".github/workflows/nightly.yml").read_text("utf-8")


# The glossary


def test_the_glossary_is_in_order_and_names_a_lesson_for_each_word():
    text = (ROOT / "notebooks/glossary.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert all(len(row) == 4 for row in rows)
    words = [word for word, *_ in rows[1:]]
    assert len(words) > 30 and words == sorted(words, key=lambda word: word.lower().replace("-", " "))
    assert all(re.search(r"\[0\d\]|lesson 0\d", where) for *_, where in rows[1:])
