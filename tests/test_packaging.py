"""What is written to be copied, in the manual, the unit and the image, fits the command it is written for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from kinochrome_client.cli import app

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "packaging" / "systemd" / "kinochrome.service"
WRITTEN = {
    path.name: path.read_text()
    for path in (
        ROOT / "docs" / "operating.md",
        ROOT / "packaging" / "Dockerfile",
        ROOT / "packaging" / "systemd" / "serve.env",
        UNIT,
    )
}


def options(*verbs: str) -> set[str]:
    command = get_command(app)
    for verb in verbs:
        command = command.commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in parameter.opts}


def commands(text: str) -> list[list[str]]:
    """Words after `kinochrome`, of each command in a text; lines that end in a backslash go on."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r'CMD \["serve"(.*?)\]', lambda found: "kinochrome serve" + re.sub(r'[",]', " ", found[1]), text)
    text = text.replace('KINOCHROME_OPTIONS="', "kinochrome serve ").replace("`", " ")
    found = re.findall(r"kinochrome ((?:serve|token|health|colorize|jobs list)\b[^\n#|>&]*)", text)
    return [line.split() for line in found]


@pytest.mark.parametrize("name", WRITTEN)
def test_options_that_are_written_down_exist(name: str) -> None:
    seen = 0
    for verb, *words in commands(WRITTEN[name]):
        verbs = (verb, words[0]) if verb == "jobs" else (verb,)
        given = {word.strip('",;.') for word in words if word.startswith("--")}
        assert given <= options(*verbs), (verb, given - options(*verbs))
        seen += len(given)
    assert seen


def test_every_option_of_serve_is_in_the_manual() -> None:
    missing = {name for name in options("serve") if name not in WRITTEN["operating.md"]}
    assert missing <= {"--engine", "--help"}


def test_the_service_manager_waits_longer_than_the_server_drains() -> None:
    unit = WRITTEN[UNIT.name]
    drain, patience = (re.search(pattern, unit) for pattern in (r"--drain (\d+)s", r"TimeoutStopSec=(\d+)"))
    assert drain and patience and int(patience[1]) >= int(drain[1]) + 15


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    unit = UNIT.read_text().replace("/opt/kinochrome/bin/kinochrome", "/bin/true").replace("=kinochrome\n", "=daemon\n")
    (tmp_path / UNIT.name).write_text(unit)
    command = ["systemd-analyze", "verify", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr
