"""Every word of the lessons and pages is English as the British write it, or one of our own in words.txt; needs no network.

The dictionary is pyspellchecker's, which leans to the American side; breame knows 1,700 words that the two sides spell each in
its own way, and of these the British count. What stands between quotation marks is somebody else's, and spelled as they like.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from breame.data.spelling_constants import AMERICAN_ENGLISH_SPELLINGS, BRITISH_ENGLISH_SPELLINGS
from spellchecker import SpellChecker

ROOT = Path(__file__).resolve().parents[1]
OURS = Path(__file__).with_name("words.txt")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "data/README.md", ROOT / ".github/CONTRIBUTING.md"]
PAGES += [ROOT / "tests/benchmarks/README.md", *sorted((ROOT / "notebooks").glob("*.md"))]
# Of what a page holds, no prose: blocks of code, formulas, code within a line, where links lead, what others said.
NO_PROSE = [
    r"^```.*?^```$",
    r"\$\$.*?\$\$",
    r"(?<!\\)\$[^$\n]+\$",
    r"`[^`\n]+`",
    r"(?<=\])\([^)\n]*\)",
    r"https?://\S+",
    r"<!-- table -->.*?<!-- end -->",  # measured, and in it the machine's own names
    r"<!--.*?-->",
    r"<[^>]+>",
    r'"[^"\n]+"',
]


@pytest.fixture(scope="module")
def known() -> set[str]:
    words = set(SpellChecker(language="en").word_frequency.words()) - set(AMERICAN_ENGLISH_SPELLINGS)
    return words | set(BRITISH_ENGLISH_SPELLINGS) | set(OURS.read_text("utf-8").split())


def misspelt(text: str, known: set[str]) -> list[str]:
    """The words of a Markdown page, its alt texts among them, that nobody knows."""
    alts = re.findall(r'\balt="([^"]*)"', text)
    for pattern in NO_PROSE:
        text = re.sub(pattern, " ", text, flags=re.DOTALL | re.MULTILINE)
    found = []
    for word in re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", " ".join([text, *alts])):
        plain = word.lower().replace("’", "'")
        if len(plain) > 1 and plain not in known and plain.removesuffix("'s") not in known:
            found.append(word)
    return sorted(set(found))


def alt_texts(source: str) -> list[str]:
    """What a cell of code says of its pictures to those who do not see them; of a text with values in it, its words."""
    found = []
    for node in ast.walk(ast.parse(re.sub(r"^(\s*)[%!]", r"\1# ", source, flags=re.MULTILINE))):
        if isinstance(node, ast.keyword) and node.arg in ("alt", "title"):
            texts = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
            found += [text for text in texts if isinstance(text, str)]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_spelled_right(path, known):
    cells = nbformat.read(path, 4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    texts += [alt for cell in cells if cell.cell_type == "code" for alt in alt_texts(cell.source)]
    assert misspelt("\n\n".join(texts), known) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_are_spelled_right(path, known):
    assert misspelt(path.read_text("utf-8"), known) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A picture's colour, normalised; Fréchet’s distance, x_0 and 64x64.", []),
        ("The denoiser recieves a picture.", ["recieves"]),
        ("The color is modeled and normalized.", ["color", "modeled", "normalized"]),
        ('They say "the color", `color` and $color$; [here](color.md) <b>and</b> there.', []),
        ('<img src="a.png" alt="A smilling face.">', ["smilling"]),
        ("Guidence\n```python\ncolor = 1\n```\n", ["Guidence"]),
    ],
)
def test_a_misspelling_is_noticed(text, says, known):
    assert misspelt(text, known) == says


def test_alt_texts_are_found():
    cell = '%matplotlib inline\nshow(x, alt="A smilling " "face.")\nplot(y, title=f"{n} facess", label="nott")'
    assert alt_texts(cell) == ["A smilling face.", " facess"]


def test_our_own_words_are_in_order():
    words = OURS.read_text("utf-8").split("\n")[:-1]
    assert words == sorted(set(words)) and all(word == word.lower().strip() and word for word in words)
