"""A committee's mean as an ASE calculator, with nothing around it: the baseline of benchmarks."""

from __future__ import annotations

from ase.calculators.calculator import Calculator, all_changes


class CommitteeOnly(Calculator):
    """Energy and forces of the members' mean."""

    implemented_properties = ["energy", "free_energy", "forces"]

    def __init__(self, committee):
        super().__init__()
        self.committee = committee

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, list(properties), list(system_changes))
        prediction = self.committee.predict(self.atoms)
        self.results = {
            "energy": prediction.energy,
            "free_energy": prediction.energy,
            "forces": prediction.mean_forces,
        }
