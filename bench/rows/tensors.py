"""Single tensors and layers: the kernels behind a scan beside NumPy and torch, in processes that time themselves."""

from __future__ import annotations

from pathlib import Path

from bench import llama8b
from bench.measure import Failed, Run, in_turn, run
from bench.row import Context, Goal, Missing, Row, agree, needs, versus
from shardscan.reduce import devices

PEERS = Path(__file__).parents[1] / "peers"


def channels(context: Context) -> list[Row]:
    """Both axes' statistics and exact quantiles of one tensor: ours with histogram and fingerprints, float64."""
    size = context.size
    shape = (size.width, size.hidden)
    folder = context.scratch / f"tensor-{shape[0]}x{shape[1]}"
    llama8b.write(folder, [("tensor.weight", shape)], {})
    libraries = ["numpy", *(["torch"] if _has("torch") else [])]

    def peer(library: str) -> Run:
        return run([str(PEERS / "channels.py"), library, str(folder)]).inner()

    ways = [lambda library=library: peer(library) for library in libraries]
    ours, *theirs = in_turn(context.runs, lambda: _tasks("stats", folder), *ways)
    rows = []
    for library, peers in zip(libraries, theirs, strict=True):
        for what, tolerance in (("p99", 0), ("p999", 0), ("std_out", 1e-4), ("kurtosis_in", 1e-3)):
            agree(f"{what} of {library}", ours[0].found[what], peers[0].found[what], tolerance)
        nbytes = 2 * shape[0] * shape[1]
        rates = {"ours_gb_s": [nbytes / r.seconds / 1e9 for r in ours]}
        rows.append(versus(f"channels-{library}", f"{library}, all cores", ours, peers, Goal(20, 50), **rates))
    return rows if _has("torch") else [*rows, _without("channels-torch", Goal(20, 50))]


def heads(context: Context) -> list[Row]:
    """Every head of one layer's q, k, v and o, from mapped bytes to σ; theirs from decoded slices."""
    folder = context.scratch / f"heads-{context.size.hidden}"
    attention = [(n, s) for n, s in llama8b.shapes(1, context.size) if ".self_attn." in n]
    llama8b.write(folder, attention, context.size.config(1))

    def peer(which: str) -> Run:
        return run([str(PEERS / "head_svd.py"), which, str(folder), str(llama8b.DIM)]).inner()

    ours, values, vectors = in_turn(
        context.runs, lambda: _tasks("heads", folder), lambda: peer("values"), lambda: peer("vectors")
    )
    for what in ("heads", "nuclear"):
        agree(what, ours[0].found[what], values[0].found[what], 1e-4)
    count = int(ours[0].found["heads"])
    goal = Goal(15, 20)
    return [
        versus("heads-8b-layer", "np.linalg.svd, values only, batched", ours, values, goal, heads=count),
        versus("heads-8b-layer-vectors", "np.linalg.svd as scripts call it", ours, vectors, goal, heads=count),
    ]


def full(context: Context, rows: int, cols: int, torch_goal: tuple[float, float]) -> list[Row]:
    """Every singular value of one matrix: ours in float64, theirs in float32."""
    name = f"full-{cols}" if rows == cols else f"full-{cols}x{rows}"
    if context.quick:
        rows, cols = rows // 16, cols // 16
    shape = [str(rows), str(cols)]
    if "missing" in (found := run(["-m", "bench.ours.full", "8", "8"]).found):
        raise Missing(found["missing"])

    def peer(library: str) -> Run:
        return run([str(PEERS / "full_svd.py"), library, *shape]).inner()

    libraries = ["numpy", *(["torch"] if _has("torch") else [])]
    ways = [lambda library=library: peer(library) for library in libraries]
    ours, *theirs = in_turn(context.runs, lambda: run(["-m", "bench.ours.full", *shape]).inner(), *ways)
    goals = {"numpy": Goal(2.5, 5), "torch": Goal(*torch_goal)}
    for peers in theirs:
        for what in ("largest", "nuclear"):
            agree(what, ours[0].found[what], peers[0].found[what], 1e-4)
    made = [
        versus(f"{name}-{library}", f"{library}, float32, values only", ours, peers, goals[library])
        for library, peers in zip(libraries, theirs, strict=True)
    ]
    return made if _has("torch") else [*made, _without(f"{name}-torch", goals["torch"])]


def gpu(context: Context) -> list[Row]:
    """Every singular value of one layer's matrices on a GPU, beside torch on the same one and ours on the CPU."""
    against = {"torch": "torch.linalg.svdvals, same GPU, float32", "cpu": "ours on the CPU"}
    goals = {"torch": Goal(2), "cpu": Goal(20)}

    def not_run(side: str, why: str) -> Row:
        return Row(f"gpu-{side}", against[side], goal=goals[side], note=f"not run: {why}")

    if not (found := devices.list_cuda_devices()):
        return [not_run(side, "no CUDA device") for side in against]
    folder = context.scratch / f"layer-{context.size.hidden}"
    shapes = llama8b.shapes(5, context.size)  # nothing is planted in the last of five layers
    llama8b.write(folder, [(n, s) for n, s in shapes if ".layers.4." in n and len(s) == 2], context.size.config(5))

    def ours_on(device: str) -> Run:
        return run(["-m", "bench.ours.layer", device, str(folder)]).inner()

    def peer() -> Run:
        return run([str(PEERS / "layer_svd.py"), str(folder)])

    lacks = peer().found.get("missing", "") if _has("torch") else "torch is not installed"
    ways = [lambda: ours_on("cuda"), lambda: ours_on("cpu"), *([] if lacks else [lambda: peer().inner()])]
    ours, on_cpu, *torch = in_turn(context.runs, *ways)
    if ours[0].found["methods"] != ["gram_gpu"]:
        raise Failed(f"what should run on {found[0]} ran as {ours[0].found['methods']}")
    for what in ("largest", "nuclear"):
        agree(what, ours[0].found[what], on_cpu[0].found[what], 1e-9)
        for runs in torch:
            agree(what, ours[0].found[what], runs[0].found[what], 1e-4)
    made = [versus("gpu-cpu", against["cpu"], ours, on_cpu, goals["cpu"], device=found[0])]
    made += [versus("gpu-torch", against["torch"], ours, runs, goals["torch"], device=found[0]) for runs in torch]
    return [*made, not_run("torch", lacks)] if lacks else made


def _tasks(product: str, folder: Path) -> Run:
    return run(["-m", "bench.ours.tasks", product, str(folder)]).inner()


def _has(package: str) -> bool:
    try:
        needs(package)
    except Missing:
        return False
    return True


def _without(name: str, goal: Goal) -> Row:
    return Row(name, "torch", goal=goal, note="torch is not installed")
