"""The pace of the lessons: short cells, guesses before answers, and at each end what one can do now."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LESSONS = [path for path in NOTEBOOKS if path.name[:1] == "0"]
by_name = {"ids": lambda path: path.stem}


def code(path: Path) -> list[str]:
    """The cells of code but for the setup, which is the same everywhere."""
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    cells[0] = re.sub(r"^# Setup, .*?^plan = setup\(\)\n*", "", cells[0], flags=re.MULTILINE | re.DOTALL)
    return [source for source in cells if source]


def too_long(cells: list[str]) -> list[str]:
    lines = [len(cell.strip().splitlines()) for cell in cells]
    wrong = [f"{count} lines, above 25: {cell[:40]!r}" for cell, count in zip(cells, lines, strict=True) if count > 25]
    middle = statistics.median(lines)
    return wrong + (
        [f"half of the cells have more than {middle:g} lines, and should not above 8"] if middle > 8 else []
    )


def unanswered(cells: list[str]) -> list[str]:
    """Guesses that no truth follows before the next guess, and truths that nobody had guessed; a function may tell it."""
    waiting, wrong, telling = False, [], set()
    for cell in cells:
        for statement in ast.parse(re.sub(r"^[%!]", "# ", cell, flags=re.MULTILINE)).body:
            source = ast.unparse(statement)
            if isinstance(statement, ast.FunctionDef):
                telling |= {statement.name} if "guess.truth(" in source else set()
                continue
            tells = "|".join(["guess.truth", *sorted(telling)])
            for asks, _ in re.findall(rf"(\bguess = (?:predict|choose)\()|(\b(?:{tells})\()", source):
                if waiting == bool(asks):
                    wrong.append(f"{'a guess' if asks else 'a truth'} too many: {source[:60]!r}")
                waiting = bool(asks)
    return wrong + ["no truth follows the last guess"] * waiting


@pytest.mark.parametrize("path", NOTEBOOKS, **by_name)
def test_cells_are_short(path):
    assert too_long(code(path)) == []


@pytest.mark.parametrize("path", LESSONS[1:], **by_name)
def test_every_guess_is_answered(path):
    assert unanswered(code(path)) == []


@pytest.mark.parametrize("path", LESSONS[1:5], **by_name)
def test_the_important_cells_are_guessed_first(path):
    assert len(re.findall(r"^guess = (?:predict|choose)\(", "\n".join(code(path)), re.MULTILINE)) >= 3


@pytest.mark.parametrize("path", LESSONS, **by_name)
def test_a_lesson_ends_with_what_one_can_do_now(path):
    last = nbformat.read(path, 4).cells[-1].source
    assert re.search(r"^\*\*You now can\*\* [a-z].+\.$", last, re.MULTILINE)


def test_what_breaks_the_pace_is_noticed():
    assert too_long(["x\n" * 25, "x", "x"]) == []
    assert "26 lines, above 25" in too_long(["x\n" * 26, "x", "x"])[0]
    assert too_long(["x\n" * 9] * 3) == ["half of the cells have more than 9 lines, and should not above 8"]
    ask, told = "guess = predict('how many?', 3)", "guess.truth(4)"
    assert unanswered([ask, f"x = 1\n{told}", ask, told]) == []
    assert len(unanswered([ask, ask, told])) == len(unanswered([told])) == len(unanswered([ask])) == 1
