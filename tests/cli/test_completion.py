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


def complete(environment, shell, words, index):
    """What completion offers; each shell's script passes the words in its own way."""
    settings = {"_VISIONTOOL_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    if shell == "fish":
        settings["COMP_CWORD"] = words.split()[index] if index < len(words.split()) else ""
    return subprocess.run(
        ["visiontool"], env={**environment, **settings}, capture_output=True, text=True, check=False
    ).stdout


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


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands_options_and_models(environment, shell):
    assert "predict" in complete(environment, shell, "visiontool pre", 1)
    assert "--min-probability" in complete(environment, shell, "visiontool predict --min", 2)
    assert "lenet5" in complete(environment, shell, "visiontool predict -m len", 3)
    assert "squash" in complete(environment, shell, "visiontool predict --crop-mode s", 3)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
def test_bash_itself_offers_the_models(environment):
    line = (
        'eval "$(_VISIONTOOL_COMPLETE=bash_source visiontool)"; COMP_WORDS=(visiontool predict -m len); COMP_CWORD=3;'
        ' _visiontool_completion visiontool; echo "${COMPREPLY[@]}"'
    )
    ran = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True)
    assert ran.stdout.split() == ["lenet5"], ran.stderr
