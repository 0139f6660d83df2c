"""The pages beside the notebooks: their links lead somewhere, the glossary is in order and knows the exercises' lessons."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / ".github/CONTRIBUTING.md",
    *sorted((ROOT / "notebooks").glob("*.md")),
    ROOT / "data/README.md",
]


def dead_links(page: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_one(page):
    assert dead_links(page) == []


def test_a_dead_link_is_noticed(tmp_path):
    (tmp_path / "page.md").write_text("[a](page.md) [b](none.md#part) [c](https://host/none) [d](page.md#part)")
    assert dead_links(tmp_path / "page.md") == ["none.md"]


def test_the_glossary_is_in_order_and_names_a_lesson_for_each_word():
    text = (ROOT / "notebooks/glossary.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert all(len(row) == 4 for row in rows)
    words = [word for word, *_ in rows[1:]]
    assert len(words) > 30 and words == sorted(words, key=lambda word: word.lower().replace("-", " "))
    assert all(re.search(r"\[0\d\]|lesson 0\d", where) for *_, where in rows[1:])
