"""`--device`: which one is chosen, that a GPU's tables are the CPU's, and what is done where a GPU fails.

The GPU is NumPy's, see numpy_gpu; test_gpu.py has the kernels' own tests, for which a CUDA device is needed.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import shardscan
from made import numpy_gpu, tiny
from oracles.devices import query, same_tables
from oracles.exactness import Found, tensors_of, the_only, units
from oracles.exactness import solved as solved_whole
from shardscan.cli import main
from shardscan.errors import OptionError
from shardscan.plan import blocks as grid
from shardscan.plan.tasks import Unit
from shardscan.reduce import devices, panels
from shardscan.reduce.blocks import finish_tensor, merge_products, reduce_block
from shardscan.reduce.devices import CPU, Cuda, Solver, choose_device
from shardscan.reduce.kernels import cpu, gpu
from shardscan.reduce.kernels.gpu import spectra
from shardscan.reduce.spectra import METHODS, spectrum_floor
from shardscan.store import commits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs that are NumPy's."""
    numpy_gpu.install(monkeypatch)


def fails(error: Exception) -> Callable[..., Any]:
    def function(*_: object) -> Any:
        raise error

    return function


# ---- the choice


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(
    ("words", "device"),
    [("auto", Cuda(0)), ("cpu", CPU), ("cuda", Cuda(0)), ("cuda:0", Cuda(0)), ("cuda:1", Cuda(1))],
)
def test_a_device_by_its_words(words: str, device: devices.Device) -> None:
    assert choose_device(words) == device
    assert pickle.loads(pickle.dumps(device)) == device  # worker processes get one


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("words", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:0 ", "cuda:١", "cuda:0\n"])
def test_other_words_are_refused(words: str) -> None:
    with pytest.raises(OptionError, match="is no --device: take auto, cpu, cuda"):
        choose_device(words)


@pytest.mark.usefixtures("on_numpy")
def test_a_device_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(OptionError, match=r"no device cuda:2; there are: cuda:0 NumPy, cuda:1 NumPy\."):
        choose_device("cuda:2")


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize(
    ("function", "error", "says"),
    [
        ("load", gpu.OutOfMemory(), "cuda:0 has no memory free"),
        ("gram_spectra", gpu.NoDevice("CuPy does not find cuSOLVER."), "does not find cuSOLVER"),
    ],
)
def test_a_device_that_cannot_compute_is_refused_by_name_and_left_alone_by_auto(
    monkeypatch: pytest.MonkeyPatch, function: str, error: Exception, says: str
) -> None:
    monkeypatch.setattr(gpu, function, fails(error))
    assert choose_device("auto") == CPU
    with pytest.raises(OptionError, match=says):
        choose_device("cuda")


@pytest.mark.parametrize("there_are", [0, None], ids=["no device", "no CuPy"])
def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch, there_are: int | None) -> None:
    if there_are is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        numpy_gpu.install(monkeypatch, there_are)
    assert choose_device("auto") == CPU
    with pytest.raises(OptionError, match="pip install 'shardscan" if there_are is None else "there are: none"):
        choose_device("cuda")


# ---- the command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("cuda", "need CuPy, which is not here: pip install 'shardscan[gpu]'."),
        ("gpu", "'gpu' is no --device: take auto, cpu, cuda, or cuda:1 for the second GPU."),
    ],
)
@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_refused_device_is_one_sentence_and_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, says: str, way: str
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    command = ["ingest", str(tiny.llama(tmp_path / "tiny")), "--store", str(tmp_path / "scans")]
    option, env = ([], {"SHARDSCAN_DEVICE": words}) if way == "environment" else (["--device", words], {})
    done = CliRunner().invoke(main, [*command, *option], env=env)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith(f"{says}\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "scans").exists()


@pytest.mark.usefixtures("on_numpy")
def test_the_device_is_named_and_recorded_unless_it_is_the_cpu(tmp_path: Path) -> None:
    command = ["ingest", str(tiny.llama(tmp_path / "tiny")), "--store", str(tmp_path / "scans")]
    for words, ending in ((["--device", "cuda:1"], "; on cuda:1."), (["--device", "cpu"], " placed.")):
        done = CliRunner().invoke(main, [*command, *words, "--dry-run"])
        assert done.stderr.splitlines()[0].endswith(ending)
    assert "on cuda:0." in CliRunner().invoke(main, [*command, "--device", "auto"]).stderr
    assert query(tmp_path / "scans", "select options ->> 'device' from runs") == [("cuda:0",)]
    assert "cuda" not in CliRunner().invoke(main, ["ls", command[1]]).output


def test_on_the_cpu_nothing_of_the_gpus_is_imported(tmp_path: Path) -> None:
    model = str(tiny.llama(tmp_path / "tiny"))
    code = (
        "import sys; sys.modules['cupy'] = None; import shardscan\n"
        "for device in ('auto', 'cpu'):\n"
        f"    shardscan.ingest({model!r}, {str(tmp_path)!r} + '/' + device, spectra='heads,full', device=device)\n"
        "print([m for m in sys.modules if m.startswith('shardscan.reduce.kernels.gpu')], sys.modules['cupy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[] None\n"


# ---- the scan


@pytest.mark.usefixtures("on_numpy")
def test_a_scan_on_a_gpu_has_the_tables_of_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "cpu", spectra="heads,full", device="cpu")
    for name in ("statistics", "row_grams", "column_grams", "full_spectrum"):
        monkeypatch.setattr(cpu, name, fails(AssertionError(f"{name} of the CPU")))
    shardscan.ingest(model, tmp_path / "gpu", spectra="heads,full", device="cuda")
    same_tables(tmp_path / "gpu", tmp_path / "cpu")


@pytest.mark.usefixtures("on_numpy")
def test_a_scan_goes_on_on_another_device_and_commits_say_which(tmp_path: Path) -> None:
    model = tiny.llama(tmp_path / "tiny")
    shardscan.ingest(model, tmp_path / "scans", device="cuda:1")
    again = shardscan.ingest(model, tmp_path / "scans", device="cpu", spectra="heads,full", blas_threads=1)
    assert again.tasks == query(tmp_path / "scans", "select count(*) from spectra where head is null")[0][0]
    assert query(
        tmp_path / "scans", "select head is null, method, count(*) > 0 from spectra group by all order by 1"
    ) == [
        (False, "gram_gpu", True),
        (True, "gram", True),
    ]
    (scan,) = commits.list_scans(tmp_path / "scans")
    options = {(product, json.dumps(record.options)) for (_, product), record in commits.read_commits(scan).items()}
    assert options == {
        ("stats/1", '{"device": "cuda:1"}'),
        ("heads/1", '{"device": "cuda:1"}'),
        ("full/1", '{"device": "cpu", "exact": false, "blas_threads": 1}'),
    }


@pytest.mark.usefixtures("on_numpy")
def test_a_device_that_is_lost_ends_the_run_in_a_sentence_and_another_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, left, statistics = tiny.llama(tmp_path / "tiny"), [6], gpu.statistics

    def lost(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise gpu.NoDevice("There is no CUDA device that can be used: it fell off the bus.")
        return statistics(*given)

    monkeypatch.setattr(gpu, "statistics", lost)
    command = ["ingest", str(model), "--store", str(tmp_path / "scans"), "--workers", "1", "--device"]
    done = CliRunner().invoke(main, [*command, "cuda"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.endswith("\nError: There is no CUDA device that can be used: it fell off the bus.\n")
    assert 0 < json.loads(CliRunner().invoke(main, [*command, "cpu"]).stdout)["tasks"] < 16


# ---- what does not fit, and what is wrong


def heads_of(folder: Path, role: str = "q") -> Unit:
    """A projection of four heads."""
    shape = (4 * tiny.HEAD_DIM, 3 * tiny.HEAD_DIM)
    w = np.random.default_rng(0).standard_normal(shape if role == "q" else shape[::-1])
    name = f"model.layers.0.self_attn.{role}_proj.weight"
    return units(tensors_of(folder, {name: w}, config=tiny.CONFIG))[name]


def heads_on(device: devices.Device, unit: Unit) -> tuple[Found, list[str]]:
    """The results of a tensor's blocks, and the method of each head."""
    result = the_only(
        finish_tensor(unit, reduce(merge_products, [reduce_block(block, device) for block in unit.blocks])), unit
    )
    assert result.heads
    return result, [METHODS[m] for m in result.heads.methods]


def solved_on(device: devices.Device, folder: Path, w: np.ndarray, code: str = "F32", exact: bool = False) -> Any:
    """σ and method of one matrix."""
    (unit,) = units(tensors_of(folder, {"w.weight": w}, code), "full").values()
    full = the_only(solved_whole(unit, Solver(exact, device)), unit).full
    assert full
    return full.sigma[0], METHODS[int(full.methods[0])]


def out_of_memory_at(monkeypatch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Fail one call of a GPU's function for want of memory."""
    right, calls = getattr(gpu, function), count()

    def sometimes(*given: Any) -> Any:
        if next(calls) == call:
            raise gpu.OutOfMemory
        return right(*given)

    monkeypatch.setattr(gpu, function, sometimes)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("role", ["q", "o"])
@pytest.mark.parametrize(
    ("function", "expected"), [("load", "gram"), ("statistics", "gram"), ("gram_spectra", "gram"), (None, "gram_gpu")]
)
def test_heads_that_do_not_fit_are_the_cpus_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str, function: str | None, expected: str
) -> None:
    monkeypatch.setattr(grid, "BLOCK_BYTES", 1)
    unit = heads_of(tmp_path, role)
    assert len(unit.blocks) > 2
    if function:
        out_of_memory_at(monkeypatch, function, 0 if function == "gram_spectra" else 1)
    (found, methods), (right, _) = heads_on(Cuda(0), unit), heads_on(CPU, unit)
    assert methods == [expected] * 4
    assert found.heads and right.heads
    np.testing.assert_allclose(found.heads.sigma, right.heads.sigma, rtol=1e-9)
    np.testing.assert_array_equal(found.channels_in, right.channels_in)
    np.testing.assert_array_equal(found.fingerprints_out, right.fingerprints_out)
    assert found.digest == right.digest


@pytest.mark.usefixtures("on_numpy")
def test_a_head_that_the_solver_gets_wrong_goes_the_exact_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = heads_of(tmp_path)
    right = heads_on(CPU, unit)[0]
    solve = np.linalg.eigvalsh

    def wrong(grams: np.ndarray) -> np.ndarray:
        return np.concatenate([np.diagonal(grams[:1], axis1=1, axis2=2), solve(grams[1:])])

    monkeypatch.setattr(spectra, "_solved", wrong)
    found, methods = heads_on(Cuda(0), unit)
    assert methods == ["qr_svd", *["gram_gpu"] * 3]
    assert found.heads and right.heads
    np.testing.assert_allclose(found.heads.sigma, right.heads.sigma, rtol=1e-9)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("panel_bytes", [1, 32 << 20], ids=["many panels", "one panel"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (40, 40), (300, 33), (33, 300)], ids=str)
@pytest.mark.parametrize("code", ["BF16", "F32", "F8_E4M3"])
def test_whole_matrices_in_the_gpus_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, shape: tuple[int, int], panel_bytes: int
) -> None:
    monkeypatch.setattr(panels, "PANEL_BYTES", panel_bytes)
    w = np.random.default_rng(0).standard_normal(shape)
    sigma, method = solved_on(Cuda(0), tmp_path, w, code)
    assert method == "gram_gpu"
    np.testing.assert_allclose(sigma, solved_on(CPU, tmp_path, w, code)[0], rtol=1e-9)


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.parametrize("error", [gpu.OutOfMemory(), gpu.Inaccurate()], ids=lambda error: type(error).__name__)
def test_a_whole_matrix_that_fails_on_the_gpu_is_the_cpus_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    solve = gpu.full_spectrum

    def failing(panels: Any, n: int) -> np.ndarray:
        next(panels)  # some are used up
        if n == 20:
            raise error
        return solve(panels, n)

    w = np.random.default_rng(1).standard_normal((30, 30)).astype(np.float32)
    model = tensors_of(tmp_path / "m", {"a.weight": w[:, :20], "b.weight": np.vstack([w, w])})
    monkeypatch.setattr(panels, "PANEL_BYTES", 1)
    monkeypatch.setattr(gpu, "full_spectrum", failing)
    summary = shardscan.ingest(model, tmp_path / "scans", spectra="full", device="cuda")
    assert list(summary.failures) == ["b.weight"]  # its first panel is missing: the self-check sees every device's σ
    monkeypatch.setattr(gpu, "full_spectrum", solve)
    shardscan.ingest(model, tmp_path / "scans", spectra="full", device="cuda")
    assert query(tmp_path / "scans", "select matrix, method from spectra order by all") == [
        ("a.weight", "gram"),
        ("b.weight", "gram_gpu"),
    ]


@pytest.mark.usefixtures("on_numpy")
@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("scale", [np.nan, np.inf, 1e200, 1e-200])
def test_what_no_gram_matrix_holds_is_as_on_the_cpu(tmp_path: Path, scale: float) -> None:
    w = np.random.default_rng(2).standard_normal((30, 20))
    w[3, 4] = 1.0
    w = w * scale if np.isfinite(scale) else np.where(w == 1.0, scale, w)
    for exact in (False, True):
        on_gpu, on_cpu = (solved_on(device, tmp_path, w, "F64", exact) for device in (Cuda(0), CPU))
        assert on_gpu[1] == on_cpu[1] != "gram_gpu"
        np.testing.assert_array_equal(on_gpu[0], on_cpu[0])


@pytest.mark.usefixtures("on_numpy")
def test_the_floor_of_both_gram_methods_is_one_and_exact_redoes_what_is_below(tmp_path: Path) -> None:
    assert spectrum_floor("gram_gpu", 2.0, 30, 20) == spectrum_floor("gram", 2.0, 30, 20) == 2e-5
    left, right = (np.linalg.qr(np.random.default_rng(s).standard_normal((n, 20)))[0] for s, n in ((3, 60), (4, 20)))
    w = (left * np.geomspace(1, 1e-9, 20)) @ right.T
    assert solved_on(Cuda(0), tmp_path, w, "F64")[1] == "gram_gpu"
    sigma, method = solved_on(Cuda(0), tmp_path, w, "F64", exact=True)
    assert method == "qr_svd"
    np.testing.assert_allclose(sigma, np.geomspace(1, 1e-9, 20), rtol=1e-6)


@pytest.mark.usefixtures("on_numpy")
def test_no_more_than_two_blocks_are_on_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statistics, inside, most = gpu.statistics, list[None](), list[int]()

    def slow(*given: Any) -> Any:
        inside.append(None)
        most.append(len(inside))
        time.sleep(0.05)
        inside.pop()
        return statistics(*given)

    monkeypatch.setattr(gpu, "statistics", slow)
    shardscan.ingest(tiny.llama(tmp_path / "tiny"), tmp_path / "scans", workers=6, device="cuda")
    assert max(most) == 2
