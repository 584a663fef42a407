"""The shell completes verbs once `glassworks --install-completion` has run."""

import os
import subprocess
import sys
from pathlib import Path


def test_bash_completes_verbs_after_the_installation(tmp_path):
    command = Path(sys.executable).with_name("glassworks")
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    # from a shell, as a user does: typer looks for one among its ancestors
    install = ["bash", "-c", f"{command} --install-completion bash; exit $?"]
    subprocess.run(install, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=60)
    assert ".bash_completions/glassworks.sh" in (tmp_path / ".bashrc").read_text()
    script = (
        f"source ~/.bashrc; COMP_WORDS=(glassworks new exp); COMP_CWORD=2; _glassworks_completion {command}; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["experiment"]
