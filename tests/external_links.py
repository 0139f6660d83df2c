"""Request every external link of lessons and pages once, and report the dead ones: `python tests/external_links.py`.

The nightly workflow runs it; it needs only Python. A link is dead if there is no answer, or the answer is that the page does not
exist. A link that refuses programs (401, 403, 405, 429) is reported, but does not count as dead.
"""

import json
import re
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = "README.md CHANGELOG.md CITATION.cff data/README.md tests/*/README.md .github/*.md notebooks/*.md".split()
AGENT = "Mozilla/5.0 (compatible; facelab link check, once a night)"
REFUSED = {401, 403, 405, 429}


def text_of(path: Path) -> str:
    """The text of a page; of a notebook its cells, without outputs."""
    if path.suffix != ".ipynb":
        return path.read_text("utf-8")
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"])


def links_of(text: str) -> set[str]:
    """The links of a text, without fragments; the project's own are left out while it is unpublished."""
    found = re.findall(r"https?://[^\s<>\"'`\\\]]+", text)
    # A bracket belongs to the link only if it was opened there; punctuation at the end never does.
    found = [re.match(r"(?:[^()]|\([^()]*\))*", link)[0].rstrip(".,;:!?").partition("#")[0] for link in found]
    return {link for link in found if "/YOUR_ACCOUNT/" not in link and not re.search(r"[{}]", link)}


def collect(root: Path = ROOT) -> dict[str, list[str]]:
    """{link: the files that hold it}"""
    where: dict[str, list[str]] = {}
    for path in sorted({path for pattern in [*PAGES, "notebooks/*.ipynb"] for path in root.glob(pattern)}):
        for link in sorted(links_of(text_of(path))):
            where.setdefault(link, []).append(str(path.relative_to(root)))
    return where


def request(link: str, timeout: float = 30) -> tuple[bool, str]:
    """(whether it is alive, the answer)"""
    question = urllib.request.Request(link, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(question, timeout=timeout) as answer:
            return True, str(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code in REFUSED, str(refused.code)
    except (OSError, ValueError) as none:
        return False, str(getattr(none, "reason", none)) or type(none).__name__


def main(root: Path = ROOT, timeout: float = 30) -> int:
    where, dead = collect(root), 0
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda link: request(link, timeout), where)
        for (link, files), (alive, status) in zip(where.items(), answers, strict=True):
            if not alive or status != "200":
                print(f"{'refused' if alive else 'DEAD'}: {link} ({status}), in {', '.join(files)}")
            dead += not alive
    print(f"{len(where)} links requested, {dead} dead")
    return int(dead > 0)


if __name__ == "__main__":
    sys.exit(main())
