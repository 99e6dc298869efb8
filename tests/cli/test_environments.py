"""Where people run it: folders of any name, and machines on which next to nothing can be written."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from made import tiny
from made.commands import ROOT, command
from shardscan.cli import main


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.mark.parametrize("name", ["why?", "back\\slash", "http:x", "run#2 100%20 'a' \"b\" [*] {мо}"])
def test_any_folder_that_the_file_system_takes_holds_checkpoints_stores_and_results(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    model, store = (Path(name, kind + name) for kind in ("model-", "store-"))
    tiny.llama(model, inner=(8,))
    commands: tuple[tuple[str | Path, ...], ...] = (
        ("ingest", model, "--store", store),
        ("catalog", "--store", store),  # from the old one
        ("verify", store),
        ("sql", "SELECT count(*) FROM tensors", "--store", store, "-o", f"{name}/{name}.csv"),
    )
    for words in commands:
        done = run(*words)
        assert done.exit_code == 0, (words, done.stderr)
    assert Path(name, f"{name}.csv").read_text().splitlines()[1] == "9"
    assert (store / "catalog.duckdb").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def may_mount() -> bool:
    """Whether a process here can have mounts of its own."""
    if os.getuid() != 0 or not shutil.which("unshare"):
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


@pytest.mark.full_only  # kernels are compiled anew: half a minute
@pytest.mark.skipif(not may_mount(), reason="mounts need root, unshare and a sandbox that lets it")
@pytest.mark.parametrize(("mode", "said"), [(0o700, "Only "), (0o777, "no folder keeps them")])
def test_a_read_only_installation_works_for_a_user_without_a_home(tmp_path: Path, mode: int, said: str) -> None:
    """Compiled code is kept in a temporary folder, but in none that others can write to."""
    folder = tmp_path / f"shardscan-numba-{os.getuid()}"
    folder.mkdir()
    folder.chmod(mode)
    model = tiny.llama(tmp_path / "model", inner=(8,))
    package = shlex.quote(str(ROOT / "shardscan"))
    words = shlex.join(command("ingest", str(model), "--store", str(tmp_path / "scans")))
    script = f"""
        set -e
        mount --bind {package} {package}
        mount -o remount,ro,bind {package}
        find {package} -name __pycache__ | while read -r folder; do mount -t tmpfs -o ro none "$folder"; done
        {words}
    """
    nowhere = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "TMPDIR": str(tmp_path)}
    environment = {
        **os.environ,
        **nowhere,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr and "NUMBA_CACHE_DIR can name" in done.stderr and "Traceback" not in done.stderr
