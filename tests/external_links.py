"""Asks every address to which the lessons and pages lead, once, and says which are dead: `python tests/external_links.py`.

The nightly workflow runs it; it needs Python alone. An address is dead where nobody answers, or the answer is that there is no
such page. One that only turns programs away (401, 403, 405, 429) is told, and not called dead.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CITATION.cff", "data/README.md", "tests/benchmarks/README.md", ".github/*.md", "notebooks/*.md"]
AGENT = "Mozilla/5.0 (compatible; facelab's check of links, once a night)"
TURNED_AWAY = {401, 403, 405, 429}


def text_of(path: Path) -> str:
    """What a page says; of a notebook its cells, without what they printed."""
    if path.suffix != ".ipynb":
        return path.read_text("utf-8")
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])


def links_of(text: str) -> set[str]:
    """The addresses that a text leads to, without the places within a page; the unpublished project's own are left out."""
    found = re.findall(r"https?://[^\s<>\"'`\\\]]+", text)
    # A bracket belongs to the address only if it was opened there, and a stop at the end never.
    found = [re.match(r"(?:[^()]|\([^()]*\))*", link)[0].rstrip(".,;:!?").partition("#")[0] for link in found]
    return {link for link in found if "/OWNER/" not in link and not re.search(r"[{}]", link)}


def collect(root: Path = ROOT) -> dict[str, list[str]]:
    """{address: the files that lead there}"""
    where: dict[str, list[str]] = {}
    for path in sorted({path for pattern in [*PAGES, "notebooks/*.ipynb"] for path in root.glob(pattern)}):
        for link in sorted(links_of(text_of(path))):
            where.setdefault(link, []).append(str(path.relative_to(root)))
    return where


def ask(link: str, patience: float = 30) -> tuple[bool, str]:
    """(whether it is alive, what was answered)"""
    request = urllib.request.Request(link, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=patience) as answer:
            return True, str(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code in TURNED_AWAY, str(refused.code)
    except (OSError, ValueError) as none:
        return False, str(getattr(none, "reason", none)) or type(none).__name__


def main(root: Path = ROOT, patience: float = 30) -> int:
    where, dead = collect(root), 0
    with ThreadPoolExecutor(8) as many:
        answers = many.map(lambda link: ask(link, patience), where)
        for (link, files), (alive, said) in zip(where.items(), answers, strict=True):
            if not alive or said != "200":
                print(f"{'turned away' if alive else 'DEAD'}: {link} ({said}), in {', '.join(files)}")
            dead += not alive
    print(f"{len(where)} addresses asked, {dead} dead")
    return int(dead > 0)


if __name__ == "__main__":
    sys.exit(main())
