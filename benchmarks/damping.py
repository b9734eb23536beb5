"""Which damping of D3 the acetylacetone data were made with: PBE/def2-SVP against ORCA's numbers.

Four test frames (300 and 600 K) at PBE/def2-SVP, grid 4, with each damping;
relative energies and forces against the data.  ``--quick`` takes two frames on
grid 1.
"""

from __future__ import annotations

from pathlib import Path

import ase.io
import bench  # first: it sets the threads
import numpy as np
from ase.units import Bohr, Hartree

FRAMES = (
    ("test_MD_600K.xyz", 0),
    ("test_MD_600K.xyz", 300),
    ("test_MD_300K.xyz", 0),
    ("test_MD_600K.xyz", 600),
)
DAMPINGS = ("none", "d3zero", "d3bj")


def main() -> None:
    from pyscf import dft, gto
    from pyscf.dispersion import dftd3

    options = bench.parser(__doc__ or "")
    options.add_argument("--data", type=Path, required=True, help="folder with acetylacetone/")
    chosen = options.parse_args()
    energies: dict[str, list[float]] = {damping: [] for damping in DAMPINGS}
    forces: dict[str, list[float]] = {damping: [] for damping in DAMPINGS}
    for name, index in FRAMES[: 2 if chosen.quick else None]:
        atoms = ase.io.read(chosen.data / "acetylacetone" / name, index=index)
        mole = gto.M(
            atom=list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)),
            basis="def2-svp",
            verbose=0,
        )
        field = dft.RKS(mole, xc="pbe").density_fit()
        field.grids.level = 1 if chosen.quick else 4
        field.conv_tol = 1e-8
        energy, gradient = float(field.kernel()), field.nuc_grad_method().kernel()
        for damping in DAMPINGS:
            extra = {"energy": 0.0, "gradient": 0.0}
            if damping != "none":
                model = dftd3.DFTD3Dispersion(mole, xc="pbe", version=damping)
                extra = model.get_dispersion(grad=True)
            ours = (energy + extra["energy"]) * Hartree
            ours_forces = -(gradient + extra["gradient"]) * Hartree / Bohr
            energies[damping].append(ours - atoms.get_potential_energy())
            forces[damping].append(float(np.sqrt(np.mean((ours_forces - atoms.get_forces()) ** 2))))
    figures = {}
    for damping in DAMPINGS:
        figures[f"relative_energy_spread_ev_{damping}"] = float(np.ptp(energies[damping]))
        figures[f"force_rms_ev_per_ang_{damping}"] = float(np.mean(forces[damping]))
    bench.report(figures, {}, chosen.json)


if __name__ == "__main__":
    main()
