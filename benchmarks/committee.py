"""What a committee costs: stacked MACE and ANI against their own calculators, one thread.

Networks have random weights, which serve for timing and comparison.  Stock and
stacked take turns on the same moving geometries; times are processor time,
which one thread's wall time is on an idle machine.  Networks: small (16x0e, 2
layers, r_max 4 A) and production (128x0e+128x1o, 2 layers, correlation 3,
r_max 5 A).  Structures: linear alcohols of 9, 21 and 60 atoms, a periodic box
of 66 waters (198 atoms, called 200).

Two floors, as shares of the time of four stacked networks: the arithmetic of
its matrix products at the speed of one large product, which binds large
systems, and starting its tensor operations at the speed of the smallest one,
which binds small ones.  Where the time goes: the shares of the matrix products
and of gathering and scattering as torch's profiler sees them, and that of
building the graph.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import bench
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from torch._inductor.utils import fresh_cache
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hybrid_calc.committee.evaluate import evaluate
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.committee.mace_files import import_mace, untouched

with untouched(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_mace()
    from e3nn import o3
    from mace import modules
    from mace.calculators import MACECalculator

NETWORKS = {"small": ("16x0e", 4.0), "production": ("128x0e+128x1o", 5.0)}
STOCK4_TARGETS = {9: 0.35, 21: 0.5, 60: 0.75, 200: 0.9}
PRODUCTS = {"aten::bmm", "aten::mm", "aten::baddbmm", "aten::addmm"}
GATHERS = {"aten::index_select", "aten::index_add_", "aten::scatter_add_", "aten::index_copy_"}
MEMORY = "--memory"


def main() -> None:
    if MEMORY in sys.argv:
        memory_of(*sys.argv[sys.argv.index(MEMORY) + 1 :])
        return
    options = bench.parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float] = {}
    sizes: dict[str, tuple[int, ...]] = {"small": (9, 21), "production": (9,)}
    if not options.quick:
        sizes = dict.fromkeys(NETWORKS, tuple(STOCK4_TARGETS))
    for name, atoms in sizes.items():
        figures |= stacked_mace(name, atoms, rounds=3 if options.quick else 5)
    if not options.quick:
        figures |= more_members()
        figures |= compiled()
        figures |= memory("production", 200)
    figures |= ani(rounds=3 if options.quick else 15)
    for figure in [name for name in figures if name.endswith("_small")]:
        figures[figure.removesuffix("_small")] = figures[figure]
    bench.report(figures, targets(figures), options.json)


def targets(figures: dict[str, float]) -> dict[str, tuple[str, float]]:
    """Return the targets of what was measured."""
    limits = {
        "stacked4_over_stock1_9_atoms": 1.0,
        "compiled4_over_stock1_9_atoms": 0.4,
        "compiled_max_force_difference_ev_per_ang": 1e-9,
        "descriptor_share": 0.05,
        "peak_memory_stacked4_over_stock4": 1.5,
        "max_force_difference_ev_per_ang": 1e-9,
        "ani8_over_ani_mean_9_atoms": 0.6,
        "ani8_over_ani_mean_60_atoms": 1.1,
    }
    limits |= {f"stacked4_over_stock4_{n}_atoms": x for n, x in STOCK4_TARGETS.items()}
    found: dict[str, tuple[str, float]] = {}
    for figure in figures:
        plain = figure.removesuffix("_small").removesuffix("_production")
        if plain in limits and figure != "stacked4_over_stock1_9_atoms_production":
            found[figure] = ("<=", limits[plain])
    return found


def stacked_mace(name: str, sizes: tuple[int, ...], rounds: int) -> dict[str, float]:
    """Compare four stacked networks with MACE's calculator, at each size."""
    networks = [network(name, seed) for seed in range(4)]
    committee = MaceCommittee(networks)
    figures: dict[str, float] = {}
    worst = 0.0
    for size in sizes:
        atoms = structure(size)
        stock = [MACECalculator(models=networks[:n], default_dtype="float64") for n in (1, 4)]
        count = rounds if size < 100 else 2
        one, four, ours = take_turns(
            atoms, [stock[0].calculate, stock[1].calculate, committee.predict], count
        )
        label = f"{size}_atoms_{name}"
        figures[f"stacked4_over_stock4_{label}"] = ours / four
        figures[f"stacked4_over_stock1_{label}"] = ours / one
        figures |= {f"stock1_ms_{label}": one * 1e3, f"stock4_ms_{label}": four * 1e3}
        figures[f"stacked4_ms_{label}"] = ours * 1e3
        figures |= {f"{k}_{label}": v for k, v in floors(committee, atoms, ours).items()}
        forces = committee.predict(stock[1].atoms).forces
        worst = max(worst, float(np.abs(forces - stock[1].results["forces_comm"]).max()))
    figures[f"max_force_difference_ev_per_ang_{name}"] = worst
    figures[f"descriptor_share_{name}"] = descriptor_share(committee, structure(9))
    return figures


def more_members() -> dict[str, float]:
    """Time two, four and eight small networks on nine atoms."""
    networks = [network("small", seed) for seed in range(8)]
    figures = {}
    for count in (2, 4, 8):
        committee = MaceCommittee(networks[:count])
        (seconds,) = take_turns(structure(9), [committee.predict], 20)
        figures[f"stacked{count}_ms_9_atoms"] = seconds * 1e3
    return figures


def compiled() -> dict[str, float]:
    """Compare four compiled small networks with one stock call and with the same not compiled.

    Compiled twice: with an empty cache, as at the very first run, and with
    what that left, as at every later one.
    """
    networks, figures = [network("small", seed) for seed in range(4)], {}
    stock = MACECalculator(models=networks[:1], default_dtype="float64")
    plain = MaceCommittee(networks)
    with fresh_cache():
        for run in ("first", "later"):
            fast = MaceCommittee(networks, compile=True)
            began = time.perf_counter()
            fast.predict(structure(9))
            figures[f"compile_seconds_{run}_run_9_atoms"] = time.perf_counter() - began
        worst = 0.0

        def difference(atoms: Atoms) -> None:
            nonlocal worst
            forces = fast.predict(atoms).forces - plain.predict(atoms).forces
            worst = max(worst, float(np.abs(forces).max()))

        calls = [stock.calculate, plain.predict, fast.predict, difference]
        one, ours, quick, _ = take_turns(structure(9), calls, 20)
    figures["compiled4_over_stock1_9_atoms_small"] = quick / one
    figures["compiled4_over_stacked4_9_atoms_small"] = quick / ours
    figures["compiled4_ms_9_atoms_small"] = quick * 1e3
    figures["compiled_max_force_difference_ev_per_ang"] = worst
    return figures


def descriptor_share(committee: MaceCommittee, atoms: Atoms) -> float:
    """Return the part of a prediction that goes into descriptors."""
    batch = committee._builder.build([atoms])
    answer = evaluate(committee._stack, batch.graph)
    parts = list(answer.invariants.chunk(2, -1))

    def describe(_: Atoms) -> None:
        batch.per_atom(torch.cat(parts, -1).mean(0))

    whole, own = take_turns(atoms, [committee.predict, describe], 20)
    return own / whole


class CountOperations(TorchDispatchMode):
    """Count tensor operations that do something; views only name memory anew."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def floors(committee: MaceCommittee, atoms: Atoms, seconds: float) -> dict[str, float]:
    """Return the shares of a prediction that the machine's limits and kinds of work take."""
    with FlopCounterMode(display=False) as products:
        committee.predict(atoms)
    with CountOperations() as operations:
        committee.predict(atoms)

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        committee.predict(atoms)
    spent = {entry.key: entry.self_cpu_time_total for entry in seen.key_averages()}
    everything = sum(spent.values())

    def build(atoms: Atoms) -> None:
        committee._builder.build([atoms])

    (graph,) = take_turns(atoms, [build], 10)
    large = torch.rand(768, 768, dtype=torch.float64)
    one = torch.rand(1, dtype=torch.float64)
    product = fastest(lambda: large @ large, 1) / (2 * 768**3)
    start = fastest(lambda: one + one, 1000)
    return {
        "floor_arithmetic_share": products.get_total_flops() * product / seconds,
        "floor_dispatch_share": operations.count * start / seconds,
        "products_share": sum(spent.get(name, 0.0) for name in PRODUCTS) / everything,
        "gathers_share": sum(spent.get(name, 0.0) for name in GATHERS) / everything,
        "graph_share": graph / seconds,
    }


def fastest(call: Callable[[], object], times: int) -> float:
    """Return the processor seconds of one call, best of ten."""
    best = float("inf")
    for _ in range(10):
        began = time.process_time()
        for _ in range(times):
            call()
        best = min(best, (time.process_time() - began) / times)
    return best


def take_turns(atoms: Atoms, calls: list[Callable[[Atoms], object]], rounds: int) -> list[float]:
    """Return the median seconds of each call on a moving structure, after four rounds unseen."""
    random = np.random.default_rng(0)
    start = atoms.positions.copy()
    seconds = np.empty((4 + rounds, len(calls)))
    for row in seconds:
        atoms.positions = start + random.normal(scale=0.02, size=start.shape)
        for column, call in enumerate(calls):
            began = time.process_time()
            call(atoms)
            row[column] = time.process_time() - began
    return [float(value) for value in np.median(seconds[4:], axis=0)]


def memory(name: str, size: int) -> dict[str, float]:
    """Compare what an evaluation adds to the process, in a fresh process each."""
    added, whole = {}, {}
    for kind in ("stock", "stacked"):
        command = [sys.executable, "-W", "ignore", __file__, MEMORY, kind, name, str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        added[kind], whole[kind] = json.loads(done.stdout.splitlines()[-1])
    return {
        "peak_memory_stacked4_over_stock4": added["stacked"] / added["stock"],
        "peak_memory_process_stacked4_over_stock4": whole["stacked"] / whole["stock"],
        "peak_memory_stacked4_mb": added["stacked"],
    }


def memory_of(kind: str, name: str, size: str) -> None:
    """Print megabytes that evaluating adds at its peak, and the peak of the process."""
    torch.set_num_threads(1)
    networks = [network(name, seed) for seed in range(4)]
    atoms = structure(int(size))
    if kind == "stock":
        call = MACECalculator(models=networks, default_dtype="float64").calculate
    else:
        call = MaceCommittee(networks).predict
        del networks
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading left free would hide what evaluating takes
    Path("/proc/self/clear_refs").write_text("5")  # starts the high-water mark anew
    before = _status("VmRSS")
    for _ in range(3):
        call(atoms)
        atoms.rattle(0.01)
    print(json.dumps([_status("VmHWM") - before, _status("VmHWM")]))


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def ani(rounds: int) -> dict[str, float]:
    """Compare all eight ANI-1x members with the mean and with a loop over members."""
    from hybrid_calc.committee.ani import AniCommittee

    committee = AniCommittee()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchani

        model = torchani.models.ANI1x(periodic_table_index=True).double()
        mean = model.ase()
        loop = [model[number].ase() for number in range(8)]

    def all_members(atoms: Atoms) -> None:
        for calculator in loop:
            calculator.calculate(atoms, ["energy", "forces"])

    figures = {}
    for size in (9, 21, 60):
        calls = [
            lambda atoms: mean.calculate(atoms, ["energy", "forces"]),
            all_members,
            committee.predict,
        ]
        one, naive, ours = take_turns(structure(size), calls, rounds)
        figures[f"ani8_over_ani_mean_{size}_atoms"] = ours / one
        figures[f"ani8_over_ani_loop_{size}_atoms"] = ours / naive
        figures[f"ani8_ms_{size}_atoms"] = ours * 1e3
    return figures


def network(name: str, seed: int) -> torch.nn.Module:
    """Return a float64 network of H, C and O with random weights."""
    irreps, cutoff = NETWORKS[name]
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(open(os.devnull, "w")):
            warnings.simplefilter("ignore")
            return modules.ScaleShiftMACE(
                r_max=cutoff,
                num_bessel=8,
                num_polynomial_cutoff=5,
                max_ell=3,
                interaction_cls=block,
                interaction_cls_first=block,
                num_interactions=2,
                num_elements=3,
                hidden_irreps=o3.Irreps(irreps),
                MLP_irreps=o3.Irreps("16x0e"),
                atomic_energies=np.array([-13.6, -1029.0, -2042.0]),
                avg_num_neighbors=8.0 + seed,
                atomic_numbers=[1, 6, 8],
                correlation=3,
                gate=torch.nn.functional.silu,
                atomic_inter_scale=1.0 + 0.1 * seed,
                atomic_inter_shift=0.1,
            )
    finally:
        torch.set_default_dtype(torch.float32)


def structure(size: int) -> Atoms:
    """Return a linear alcohol of 9, 21 or 60 atoms, or for 200 a box of water."""
    return water_box(66) if size == 200 else alcohol((size - 3) // 3)


def alcohol(carbons: int) -> Atoms:
    """Return a zig-zag chain of CH2 with OH at the end, 3 n + 3 atoms."""
    symbols, positions = [], []
    for number in range(carbons + 1):
        along, side = 1.27 * number, (-1) ** number
        symbols.append("C" if number < carbons else "O")
        positions.append((along, 0.0, 0.42 * side))
        if number < carbons:
            symbols += ["H", "H"]
            positions += [(along, y, 1.05 * side) for y in (0.88, -0.88)]
    positions += [(-0.9, 0.0, -0.2), (1.27 * carbons + 0.8, 0.0, 0.3)]
    return Atoms([*symbols, "H", "H"], positions)


def water_box(molecules: int) -> Atoms:
    """Return randomly turned waters on a lattice, at the density of the liquid."""
    random = np.random.default_rng(0)
    length, side = (29.9 * molecules) ** (1 / 3), int(np.ceil(molecules ** (1 / 3)))
    box = Atoms(cell=[length] * 3, pbc=True)
    for place in list(np.ndindex(side, side, side))[:molecules]:
        water = molecule("H2O")
        water.rotate(random.uniform(0, 360), random.normal(size=3))
        water.translate(np.array(place) * length / side)
        box += water
    return box


if __name__ == "__main__":
    main()
