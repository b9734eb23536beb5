"""Regimes of frames nobody watched, judged by their own bonds: where the answer is known.

    python benchmarks/regimes.py --data PATH

The G2 set as ASE has it and the ends of the reactions are minima; the reactions'
transition states are not; acetylacetone at 300 and 600 K has all its bonds but in
rare frames; its proton transfer path goes from one oxygen to the other.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import bench  # first: it sets the threads
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from ase.io import iread, read

from hybrid_calc.gate.annotation import Annotator

TARGETS = {
    "g2_flagged": ("==", 0),
    "minima_not_at_home": ("==", 0),
    "transition_states_not_reactive": ("==", 0),
    "not_intact_share_300K": ("<=", 0.01),
}


def regime_of(atoms: Atoms, annotator: Annotator | None = None) -> str:
    bare = Atoms(atoms.numbers, atoms.positions)
    return (annotator or Annotator()).annotate(bare).regime.split()[0]


def counted(path: Path) -> Counter[str]:
    annotator = Annotator()
    return Counter(regime_of(atoms, annotator) for atoms in iread(path, ":"))


def main() -> None:
    options = bench.parser(__doc__ or "")
    options.add_argument("--data", type=Path, help="folder with acetylacetone/ and reactions/")
    chosen = options.parse_args()
    flagged = [name for name in g2.names if Annotator().annotate(molecule(name)).flags]
    figures: dict[str, float] = {"g2_molecules": len(list(g2.names)), "g2_flagged": len(flagged)}
    sets: dict[str, dict[str, int]] = {}
    if chosen.data is not None:
        folders = sorted((chosen.data / "reactions").glob("rxn*"))
        ends = [regime_of(read(f / f"{end}.xyz")) for f in folders for end in ("r", "p")]
        saddles = [regime_of(read(folder / "ts.xyz")) for folder in folders]
        for name in ("train_300K", "train_600K", "test_H_transfer", "test_dihedral"):
            sets[name] = dict(counted(chosen.data / "acetylacetone" / f"{name}.xyz"))
            print(name, sets[name])
        cold = sets["train_300K"]
        figures |= {
            "minima": len(ends),
            "minima_not_at_home": len(ends) - ends.count("equilibrium"),
            "transition_states": len(saddles),
            "transition_states_not_reactive": len(saddles) - saddles.count("reactive"),
            "not_intact_share_300K": 1 - cold["equilibrium"] / sum(cold.values()),
            "reactive_share_300K": cold.get("reactive", 0) / sum(cold.values()),
            "reactive_on_the_proton_transfer_path": sets["test_H_transfer"].get("reactive", 0),
            "frames_of_the_path": sum(sets["test_H_transfer"].values()),
        }
    bench.report(figures, TARGETS, chosen.json, results=sets)


if __name__ == "__main__":
    main()
