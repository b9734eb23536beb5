"""Small MACE committees trained in the script, written as files and imported as a bundle.

Members start from different weights and each is never shown another tenth of the
frames.  All members learn in one pass (vmap over their weights), which costs
about as much as three on their own.  float32, one thread.  How it went, held-out
errors included, is written beside the members' files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ase.io
import bench  # noqa: F401 - one thread, before torch
import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor, nn

from hybrid_calc.committee.bundle import import_files, load_committee
from hybrid_calc.committee.mace import MaceCommittee
from hybrid_calc.committee.mace_files import import_mace, untouched

with untouched(), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import_mace()
    from e3nn import o3
    from mace import modules
    from mace.tools.compile import disable_e3nn_codegen, simplify

STEPS = {"acetylacetone": 5000, "gfn2": 7000}
"""Steps a committee learns for: 13 and 10 processor minutes."""
CHANNELS = 32
"""Of the networks' features."""
MEMBERS = 4
CUTOFF = 4.0
BATCH = 5
RATE = 0.01
DECAY = 0.99
"""Of the running mean of the weights, per step."""
ENERGY_WEIGHT, FORCE_WEIGHT = 500.0, 100.0


def committee(
    folder: Path,
    name: str,
    frames: Sequence[Atoms],
    isolated: dict[int, float],
    *,
    share: float = 1.0,
) -> MaceCommittee:
    """Return the committee of a bundle, trained first where one that learned so long is not there.

    Parameters
    ----------
    folder
        Where members, bundle and training log are kept.
    name
        Of the bundle.
    frames
        With energies (eV) in ``info["energy"]`` and forces (eV/A) in ``arrays["forces"]``.
    isolated
        Energy of each element's free atom, eV.
    share
        Of its steps that it learns for.
    """
    steps = round(share * STEPS[name])
    bundle = folder / f"{name}.bundle"
    if not bundle.exists() or json.loads((folder / f"{name}.json").read_text())["steps"] != steps:
        folder.mkdir(parents=True, exist_ok=True)
        bundle.unlink(missing_ok=True)
        files = train(folder, name, frames, isolated, steps)
        import_files(files, bundle, trust=True, name=name)
    return load_committee(bundle)


def how_it_went(folder: Path, name: str) -> dict[str, float]:
    """Return how long a committee learned, and its force error on frames not shown to it."""
    history = json.loads((folder / f"{name}.json").read_text())
    errors = np.array(history["held_out_force_rmse_mev_per_ang"])
    return {
        f"training_minutes_{name}": history["minutes"],
        f"force_rmse_held_out_mev_per_ang_{name}": float(np.sqrt((errors**2).mean())),
    }


def train(
    folder: Path, name: str, frames: Sequence[Atoms], isolated: dict[int, float], steps: int
) -> list[Path]:
    """Train all members; write their files and how it went."""
    random = np.random.default_rng(0)
    # Each member is never shown a tenth of the frames, each another one.
    tenth = random.permutation(len(frames)) % 10
    shown = torch.tensor(np.array([tenth != member for member in range(MEMBERS)]))
    graphs = [Graph(atoms, isolated) for atoms in frames]
    members = Members(frames, isolated)
    optimizer = torch.optim.Adam(members.weights.values(), lr=RATE, amsgrad=True)
    averaged = {key: value.detach().clone() for key, value in members.weights.items()}
    start, step = time.process_time(), 0
    while step < steps:
        shuffled = random.permutation(len(graphs))
        for place in range(0, len(shuffled) - BATCH + 1, BATCH):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
            chosen = shuffled[place : place + BATCH]
            loss = members.loss(collate([graphs[i] for i in chosen]), shown[:, chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(members.weights.values(), 20.0)
            optimizer.step()
            with torch.no_grad():
                for key, value in members.weights.items():
                    averaged[key].lerp_(value, 1 - DECAY)
            step += 1
            if step % 100 == 0:
                log(f"{name}: step {step} of {steps}, loss {float(loss.detach()):.3g}")
            if step >= steps:
                break
    members.weights = averaged
    errors = members.held_out_errors(graphs, ~shown.numpy())
    minutes = (time.process_time() - start) / 60
    history = {"name": name, "steps": step, "minutes": round(minutes, 1), "frames": len(frames)}
    history["held_out_force_rmse_mev_per_ang"] = errors
    (folder / f"{name}.json").write_text(json.dumps(history) + "\n")
    log(json.dumps(history))
    files = []
    for member in range(MEMBERS):
        network = build(frames, isolated, member)
        network.load_state_dict(members.state(member), strict=False)
        files.append(folder / f"{name}_{member}.model")
        torch.save(network, files[-1])
    return files


class Energy(nn.Module):
    """A network's energy of binding, without what stops it from being stacked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, positions: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Return the energy of each frame beyond its free atoms, eV, shape (B,)."""
        net, kinds, edges = self.network, batch["node_attrs"], batch["edge_index"]
        vectors = positions[edges[1]] - positions[edges[0]]
        lengths = (vectors * vectors).sum(-1, keepdim=True).sqrt()
        features = net.node_embedding(kinds)
        directions = net.spherical_harmonics(vectors)
        radial, cutoff = net.radial_embedding(lengths, kinds, edges, net.atomic_numbers)
        energies = torch.zeros(len(kinds))
        for layer, (interaction, product, readout) in enumerate(
            zip(net.interactions, net.products, net.readouts, strict=True)
        ):
            features, skip = interaction(
                node_attrs=kinds,
                node_feats=features,
                edge_attrs=directions,
                edge_feats=radial,
                edge_index=edges,
                cutoff=cutoff,
                first_layer=layer == 0,
            )
            features = product(node_feats=features, sc=skip, node_attrs=kinds)
            energies = energies + readout(features, None)[:, 0]
        energies = net.scale_shift(energies, torch.zeros(len(kinds), dtype=torch.int64))
        return energies.new_zeros(len(batch["counts"])).index_add(0, batch["batch"], energies)


class Members:
    """All members' weights, stacked, and what they say together."""

    def __init__(self, frames: Sequence[Atoms], isolated: dict[int, float]) -> None:
        with disable_e3nn_codegen():
            networks = [simplify(build(frames, isolated, seed)) for seed in range(MEMBERS)]
        wrapped = [Energy(network) for network in networks]
        weights, self._buffers = torch.func.stack_module_state(wrapped)
        self.weights = {key: value.detach().requires_grad_() for key, value in weights.items()}
        self._shape = wrapped[0]

    def __call__(self, batch: dict[str, Tensor], *, training: bool) -> tuple[Tensor, Tensor]:
        """Return energies (M, B) and forces (M, N, 3)."""
        positions = batch["positions"].expand(MEMBERS, -1, -1).detach().requires_grad_()

        def one(weights: Any, buffers: Any, places: Tensor) -> Tensor:
            answer: Tensor = torch.func.functional_call(
                self._shape, (weights, buffers), (places, batch)
            )
            return answer

        with out_of_place():
            energies = torch.vmap(one)(self.weights, self._buffers, positions)
        (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=training)
        return energies, -gradient

    def loss(self, batch: dict[str, Tensor], shown: Tensor) -> Tensor:
        """Return the weighted squared errors, mean over frames shown (M, B), sum over members."""
        energies, forces = self(batch, training=True)
        count = shown.sum(1).clamp(min=1)
        energy = ((energies - batch["interaction"]) / batch["counts"]) ** 2
        per_atom = ((forces - batch["forces"]) ** 2).mean(-1)
        per_frame = per_atom.new_zeros(MEMBERS, len(batch["counts"]))
        per_frame = per_frame.index_add(1, batch["batch"], per_atom) / batch["counts"]
        weighted = (ENERGY_WEIGHT * energy + FORCE_WEIGHT * per_frame) * shown
        return (weighted.sum(1) / count).sum()

    def held_out_errors(self, graphs: Sequence[Graph], held: NDArray[np.bool_]) -> list[float]:
        """Return each member's force error on frames it was not shown, meV/A, root mean square."""
        squares: list[list[float]] = [[] for _ in range(MEMBERS)]
        for index in np.flatnonzero(held.any(0)):
            batch = collate([graphs[index]])
            error = ((self(batch, training=False)[1] - batch["forces"]) ** 2).mean((1, 2))
            for member in np.flatnonzero(held[:, index]):
                squares[member].append(float(error[member]))
        return [round(1e3 * float(np.mean(part)) ** 0.5, 1) for part in squares]

    def state(self, member: int) -> dict[str, Tensor]:
        """Return one network's weights under MACE's names."""
        return {k.removeprefix("network."): v[member].detach() for k, v in self.weights.items()}


@contextlib.contextmanager
def out_of_place() -> Iterator[None]:
    """Let messages be summed in a way that can be stacked."""
    original = modules.blocks.scatter_sum

    def summed(src: Tensor, index: Tensor, dim: int = 0, dim_size: int = 0) -> Tensor:
        return src.new_zeros((dim_size, *src.shape[1:])).index_add(dim, index, src)

    modules.blocks.scatter_sum = summed
    try:
        yield
    finally:
        modules.blocks.scatter_sum = original


def log(text: str) -> None:
    """Say on the error stream how far it is."""
    print(text, file=sys.stderr, flush=True)


class Graph:
    """One training frame as tensors."""

    def __init__(self, atoms: Atoms, isolated: dict[int, float]) -> None:
        elements = sorted(isolated)
        first, second = neighbours(atoms)
        kinds = torch.tensor([elements.index(z) for z in atoms.numbers])
        self.edges = torch.tensor(np.array([first, second]), dtype=torch.int64)
        self.kinds = torch.nn.functional.one_hot(kinds, len(elements)).float()
        self.positions = torch.tensor(atoms.positions - atoms.positions.mean(0)).float()
        # Absolute energies lose digits in float32; what is learned is what binding adds.
        self.interaction = atoms.info["energy"] - sum(isolated[int(z)] for z in atoms.numbers)
        self.forces = torch.tensor(atoms.arrays["forces"]).float()


def neighbours(atoms: Atoms) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ends of a molecule's edges, both ways."""
    apart = atoms.positions[:, None] - atoms.positions[None, :]
    near = (apart**2).sum(-1) < CUTOFF**2
    np.fill_diagonal(near, False)
    first, second = np.nonzero(near)
    return first, second


def collate(graphs: Sequence[Graph]) -> dict[str, Tensor]:
    """Join frames into one batch as MACE expects it."""
    counts = [len(graph.kinds) for graph in graphs]
    starts = np.concatenate([[0], np.cumsum(counts)])
    edges = torch.cat([graph.edges + int(s) for graph, s in zip(graphs, starts, strict=False)], 1)
    return {
        "positions": torch.cat([graph.positions for graph in graphs]),
        "node_attrs": torch.cat([graph.kinds for graph in graphs]),
        "edge_index": edges,
        "shifts": torch.zeros(edges.shape[1], 3),
        "unit_shifts": torch.zeros(edges.shape[1], 3),
        "cell": torch.zeros(3 * len(graphs), 3),
        "batch": torch.repeat_interleave(torch.arange(len(graphs)), torch.tensor(counts)),
        "ptr": torch.tensor(starts, dtype=torch.int64),
        "head": torch.zeros(len(graphs), dtype=torch.int64),
        "interaction": torch.tensor([graph.interaction for graph in graphs]).float(),
        "forces": torch.cat([graph.forces for graph in graphs]),
        "counts": torch.tensor(counts),
    }


def build(frames: Sequence[Atoms], isolated: dict[int, float], seed: int) -> nn.Module:
    """Return a small network with random weights, scaled to the frames."""
    elements = sorted(isolated)
    energies = np.array([isolated[z] for z in elements])
    binding = [
        (atoms.info["energy"] - sum(isolated[int(z)] for z in atoms.numbers)) / len(atoms)
        for atoms in frames
    ]
    force = np.sqrt(np.mean(np.concatenate([a.arrays["forces"].ravel() for a in frames]) ** 2))
    crowd = np.mean([len(neighbours(a)[0]) / len(a) for a in frames[:50]])
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings(), contextlib.redirect_stdout(open(os.devnull, "w")):
        warnings.simplefilter("ignore")
        return modules.ScaleShiftMACE(
            r_max=CUTOFF,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=2,
            interaction_cls=block,
            interaction_cls_first=block,
            num_interactions=2,
            num_elements=len(elements),
            hidden_irreps=o3.Irreps(f"{CHANNELS}x0e"),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=energies,
            avg_num_neighbors=float(crowd),
            atomic_numbers=elements,
            correlation=2,
            gate=torch.nn.functional.silu,
            atomic_inter_scale=float(force),
            atomic_inter_shift=float(np.mean(binding)),
        )


def read_frames(file: Path) -> list[Atoms]:
    """Return frames with their energies and forces where training looks for them."""
    frames = ase.io.read(file, ":")
    for atoms in frames:
        atoms.info["energy"] = atoms.get_potential_energy()
        if len(atoms) > 1:
            atoms.arrays["forces"] = atoms.get_forces()
        atoms.calc = None
    return frames


def free_atoms(file: Path) -> dict[int, float]:
    """Return the energy of each element's free atom, eV, from a file of them."""
    return {int(a.numbers[0]): a.get_potential_energy() for a in ase.io.read(file, ":")}


def main() -> None:
    """Train one committee, so that the benchmark finds it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("name", choices=tuple(STEPS))
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--frames", type=Path, required=True)
    options.add_argument("--isolated", type=Path, required=True)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    frames, isolated = read_frames(chosen.frames), free_atoms(chosen.isolated)
    committee(chosen.folder, chosen.name, frames, isolated)


if __name__ == "__main__":
    main()
