"""Shell completion as the README says to set it up, in the shells themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def environment():
    """An environment in which `visiontool` is the one under test."""
    scripts = Path(sys.executable).parent
    if not (scripts / "visiontool").exists():
        pytest.skip("visiontool is not installed beside this Python")
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_line_of_the_readme_is_accepted_by_the_shell(environment, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    line = {
        "bash": 'eval "$(_VISIONTOOL_COMPLETE=bash_source visiontool)" && complete -p visiontool',
        "zsh": 'autoload -Uz compinit && compinit -u && eval "$(_VISIONTOOL_COMPLETE=zsh_source visiontool)"'
        " && print $_comps[visiontool]",
        "fish": "_VISIONTOOL_COMPLETE=fish_source visiontool | source; and complete -c visiontool",
    }[shell]
    ran = subprocess.run([shell, "-c", line], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "visiontool" in ran.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("words", "index", "offer"),
    [("pre", 1, "predict"), ("predict -m len", 3, "lenet5"), ("predict --crop-mode s", 3, "squash")],
)
def test_bash_offers_commands_values_and_models(environment, words, index, offer):
    line = (
        f'eval "$(_VISIONTOOL_COMPLETE=bash_source visiontool)"; COMP_WORDS=(visiontool {words}); COMP_CWORD={index};'
        ' _visiontool_completion visiontool; echo "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
    assert ran.stdout.split() == [offer], ran.stderr
