"""What a gate is shown, made by hand: geometries of a given spread and place."""

from __future__ import annotations

import numpy as np

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.flags.coverage import Surroundings
from hybrid_calc.flags.report import Flag, FlagReport, Severity
from hybrid_calc.gate.observation import Observation
from hybrid_calc.gate.regime import Regime

ATOMS = 3
CALM = Regime(name="equilibrium", elements="H O", charge=0, multiplicity=1)
REACTIVE = Regime(name="reactive", elements="H O", charge=0, multiplicity=1)
ALL = frozenset({"uncertain", "contradiction", "unseen", "audit"})


def prediction(spread: float) -> Prediction:
    """Two members whose forces on atom 1 lie `spread` times root two apart."""
    forces = np.zeros((2, ATOMS, 3))
    forces[1, 1, 2] = spread * np.sqrt(2)
    return Prediction(energies=np.zeros(2), forces=forces)


def observe(
    spread: float | None = 0.01,
    place: float = 0.0,
    *flags: Flag,
    regime: Regime = CALM,
    temperature: float | None = None,
    molecule: str | None = None,
    **signals: float,
) -> Observation:
    """A geometry whose every atom has the fingerprint (`place`,)."""
    known = {} if spread is None else {"force_spread": spread}
    return Observation(
        regime=regime,
        report=FlagReport(flags=flags, mean_temperature=temperature),
        signals=known | signals,
        surroundings=Surroundings.of(np.full((ATOMS, 1), place)),
        molecule=molecule,
    )


def flag(name: str = "bond_breaking", severity: Severity = Severity.REGIME, **more) -> Flag:
    return Flag(name=name, severity=severity, **more)


BREAKING = flag()
CLASH = flag("close_contact", Severity.HARD, atoms=(0, 1), value=0.5, limit=0.65)
WARM = flag("mean_temperature", Severity.SOFT, value=800, limit=700, unit="K")
STRANGER = flag("unknown_element_Cl", Severity.HARD, trustable=False)
