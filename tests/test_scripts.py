"""The shell scripts behind the make targets, on machines where something is missing.

What is missing is played by a PATH that holds nothing but a few stand-in programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.documents import ROOT

BARE_PYTHON = f"""#!/bin/sh
case "$*" in *ensurepip*) test -e "$0.complete" ;; *) exec {sys.executable} "$@" ;; esac
"""


@dataclass(frozen=True)
class Machine:
    """A machine that has the programs in its folder and no others."""

    folder: Path

    def install(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(script)
        program.chmod(0o755)

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", ROOT / "tools" / script, *arguments],
            env={"PATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    folder = tmp_path / "bin"
    folder.mkdir()
    machine = Machine(folder)
    machine.install("id", "#!/bin/sh\necho 1000\n")
    return machine


@pytest.fixture
def root_machine(machine: Machine) -> Machine:
    """The same as root on Debian: apt-get notes what it is asked for."""
    machine.install("id", "#!/bin/sh\necho 0\n")
    machine.install("apt-get", '#!/bin/sh\necho "$@" >> "$0.log"\n')
    return machine


def asked_of_apt(machine: Machine) -> str:
    return (machine.folder / "apt-get.log").read_text()


def test_without_python_the_user_is_told_which_one_is_needed(
    machine: Machine, tmp_path: Path
) -> None:
    done = machine.run("create_venv.sh", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr


def test_an_old_python_is_refused(machine: Machine, tmp_path: Path) -> None:
    machine.install("python3", "#!/bin/sh\nexit 1\n")
    done = machine.run("create_venv.sh", str(tmp_path / "venv"))
    assert done.returncode == 1
    assert not (tmp_path / "venv").exists()


def test_without_the_venv_module_the_user_is_told_the_package(
    machine: Machine, tmp_path: Path
) -> None:
    machine.install("python3.11", BARE_PYTHON)
    done = machine.run("create_venv.sh", str(tmp_path / "venv"))
    assert done.returncode == 1
    minor = sys.version_info.minor
    assert f"apt-get install python3.{minor}-venv" in done.stderr


def test_root_gets_the_venv_module_installed(root_machine: Machine, tmp_path: Path) -> None:
    root_machine.install("python3.11", BARE_PYTHON)
    done = root_machine.run("create_venv.sh", str(tmp_path / "venv"))
    assert done.returncode == 0, done.stderr
    assert f"python3.{sys.version_info.minor}-venv" in asked_of_apt(root_machine)
    assert (tmp_path / "venv" / "bin" / "python").exists()


def test_a_virtual_environment_that_works_is_kept(machine: Machine, tmp_path: Path) -> None:
    machine.install("python3.11", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    venv = tmp_path / "venv"
    assert machine.run("create_venv.sh", str(venv)).returncode == 0
    (venv / "mine").touch()
    assert machine.run("create_venv.sh", str(venv)).returncode == 0
    assert (venv / "mine").exists()


def test_without_servers_the_user_is_told_what_to_install(machine: Machine) -> None:
    done = machine.run("ensure_servers.sh")
    assert done.returncode == 1
    assert "apt-get install redis-server" in done.stderr


def test_root_gets_the_servers_installed(root_machine: Machine) -> None:
    done = root_machine.run("ensure_servers.sh")
    assert done.returncode == 0, done.stderr
    assert {"redis-server", "chromium"} <= set(asked_of_apt(root_machine).split())


def test_with_servers_there_is_nothing_to_say(machine: Machine) -> None:
    for program in ("redis-server", "initdb", "chromium"):
        machine.install(program, "#!/bin/sh\n")
    done = machine.run("ensure_servers.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def dry_run(*arguments: str) -> str:
    """What make would do, were nothing up to date."""
    return subprocess.run(
        ["make", "--dry-run", "--always-make", *arguments],
        cwd=ROOT,
        # Not MAKEFLAGS, by which a make around these tests hands on its own variables.
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_an_extra_index_for_torch_is_used_only_when_given() -> None:
    index = "https://download.pytorch.org/whl/cpu"
    assert f"--extra-index-url {index}" in dry_run("install", f"TORCH_INDEX={index}")
    assert "index-url" not in dry_run("install")


def test_ci_runs_what_anybody_can_run() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-1] == "exec make test test-faults test-ipex </dev/null"
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
