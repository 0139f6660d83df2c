"""Nothing is downloaded or reported unasked, and loading a file runs no code."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import make
import pytest
from here_only import TRIED, no_connections

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "facelab").rglob("*.py"))
ELSEWHERE = "192.0.2.1"  # for documentation (RFC 5737): no machine has it


@pytest.mark.parametrize(
    "connect",
    [
        lambda: socket.create_connection((ELSEWHERE, 9), timeout=1),
        lambda: socket.getaddrinfo("example.org", 80),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"hello", (ELSEWHERE, 9)),
    ],
)
def test_a_test_that_tries_to_reach_another_machine_fails_even_if_it_catches_the_refusal(connect):
    before = len(TRIED)
    with pytest.raises(AssertionError, match="connections to other machines were tried"), no_connections():
        with pytest.raises(OSError, match="refused by the tests: socket"):
            connect()
    assert len(TRIED) == before + 1
    del TRIED[before:]


HUB = """
import json, os, facelab, huggingface_hub.constants as hub
print(json.dumps([os.environ["DO_NOT_TRACK"], hub.HF_HUB_DISABLE_TELEMETRY, hub.HF_HUB_OFFLINE]))
"""


@pytest.mark.parametrize("offline", [True, False])
def test_telemetry_is_off_and_offline_holds_for_the_hub(offline):
    names = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "FACELAB_OFFLINE")
    env = {name: value for name, value in os.environ.items() if name not in names}
    env |= {"FACELAB_OFFLINE": "1"} if offline else {}
    done = subprocess.run([sys.executable, "-c", HUB], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["1", True, offline]


def test_every_download_checks_first_whether_it_may():
    download = re.compile(
        r"\b(?:hf_hub_download|snapshot_download|urlopen|urlretrieve|download_url\w*|load_state_dict_from_url)\("
        r"|^\s*(?:import|from) (?:requests|httpx|aiohttp|socket|urllib\.request|http|gdown)\b|pretrained=True",
        re.MULTILINE,
    )
    for path in SOURCES:
        source = path.read_text("utf-8")
        assert not download.search(source) or "check_online(" in source, path


def test_loading_a_file_runs_no_code():
    for path in SOURCES:
        source = path.read_text("utf-8")
        code = r"^\s*(import pickle|from pickle)|(?<![.\w])(eval|exec)\(|allow_pickle=True|weights_only=False"
        assert not re.search(code, source, re.MULTILINE), path
        assert all("weights_only=True" in call for call in re.findall(r"torch\.load\([^)]*\)", source)), path


def test_no_secret_is_in_the_repository():
    files = [*SOURCES, ROOT / "README.md", ROOT / "pyproject.toml", ROOT / ".ci/run", *(ROOT / "data").rglob("*.json")]
    assert [path.name for path in files if make.SECRETS.search(path.read_text("utf-8"))] == []
