"""Nothing is asked of another machine unasked, nothing is told to anybody, no secret and no path lies in a notebook."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from here_only import TRIED, nobody_asked

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

import make  # noqa: E402

ELSEWHERE = "192.0.2.1"  # for documentation, RFC 5737: nobody is there


@pytest.fixture
def tried():
    """What was asked of other machines during this test, which here does not count as a fault."""
    before = len(TRIED)
    yield lambda: TRIED[before:]
    del TRIED[before:]


@pytest.mark.parametrize(
    "ask",
    [
        lambda: socket.create_connection((ELSEWHERE, 9), timeout=1),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (ELSEWHERE, 9)),
    ],
)
def test_another_machine_cannot_be_asked_from_a_test(tried, ask):
    with pytest.raises(OSError, match="refused by the tests: socket"):
        ask()
    assert len(tried()) == 1


def test_this_machine_can(tried):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    socket.getaddrinfo("localhost", 80)
    assert tried() == []


def test_a_test_that_asked_fails_even_where_it_swallowed_the_refusal(tried):
    with pytest.raises(AssertionError, match="other machines were asked"), nobody_asked():
        with contextlib.suppress(OSError):
            socket.create_connection((ELSEWHERE, 9), timeout=1)


OTHERS = """
import json, os, facelab, huggingface_hub.constants as hub
print(json.dumps({name: os.environ.get(name) for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
      | {"hub": hub.HF_HUB_DISABLE_TELEMETRY}))
"""


def test_no_telemetry_is_left_on():
    env = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
    }
    told = subprocess.run([sys.executable, "-c", OTHERS], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == {"HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "hub": True}


def test_facelab_asks_nobody_but_through_its_own_door():
    """Whatever opens a connection stands in download.py, which refuses where it should; nothing fetches by other names."""
    doors = re.compile(
        r"\b(?:from_pretrained|hf_hub_download|snapshot_download|urlopen|urlretrieve|load_state_dict_from_url|torch\.hub)\b"
        r"|^\s*(?:import|from) (?:requests|httpx|aiohttp|socket|urllib\.request|http|gdown|huggingface_hub)\b|pretrained=True",
        re.M,
    )
    found = {}
    for path in (ROOT / "facelab").glob("*.py"):
        if path.name != "download.py" and (said := doors.findall(path.read_text("utf-8"))):
            found[path.name] = said
    assert found == {}


def test_nothing_that_can_run_is_unpickled():
    """torch.load only with weights alone or on bytes whose sha256 is known; no pickle, no eval."""
    for path in (ROOT / "facelab").glob("*.py"):
        text = path.read_text("utf-8")
        assert not re.search(
            r"^\s*(import pickle|from pickle)|(?<!\.)\beval\(|(?<!\.)\bexec\(|allow_pickle=True", text, re.M
        ), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path.name}: {call}"


# Saved notebooks


@pytest.mark.parametrize("path", make.notebooks(ROOT), ids=lambda path: path.stem)
def test_no_path_of_a_machine_and_no_secret_lies_in_a_saved_notebook(path):
    assert [
        wrong for wrong in make.complaints(make.nbformat.read(path, 4)) if "path" in wrong or "secret" in wrong
    ] == []
    text = path.read_text("utf-8")
    here = [str(folder) for folder in (ROOT, Path.home(), Path(os.environ["FACELAB_CACHE"])) if len(folder.parts) > 1]
    assert [folder for folder in here if re.search(rf"{re.escape(folder)}(?![\w-])", text)] == []


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "a1B2" * 9,
        "ghp_" + "a1B2" * 9,
        "AKIA" + "A1B2" * 4,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "token = 'abcdef0123456789'",
        "https://ann:hunter2secret@host/",
    ],
)
def test_a_secret_is_noticed_in_a_cell_and_in_what_it_printed(secret):
    new = make.nbformat.v4
    printed = new.new_output("stream", name="stdout", text=secret)
    for source, outputs in ((f"# {secret}", []), ("1", [printed])):
        book = new.new_notebook(cells=[new.new_code_cell(source, execution_count=1, outputs=outputs)])
        assert any("looks like a secret" in wrong for wrong in make.complaints(book))


def test_no_secret_lies_in_the_repository():
    files = [path for path in (ROOT / "facelab").glob("*") if path.is_file()]
    files += [ROOT / "README.md", ROOT / "pyproject.toml", ROOT / ".ci/run", *(ROOT / "data").rglob("*.json")]
    assert [path.name for path in files if make.SECRETS.search(path.read_text("utf-8"))] == []
