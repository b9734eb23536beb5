"""What must be remembered from one geometry of a trajectory to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ase import Atoms

from hybrid_calc.answer.step import Step
from hybrid_calc.flags.monitor import Monitor, Survey
from hybrid_calc.gate.control import Streak
from hybrid_calc.gate.policy import Source


@dataclass(slots=True, kw_only=True)
class Trajectory:
    """What must be remembered from one geometry of a trajectory to the next.

    Attributes
    ----------
    monitor
        Memory of the flags.
    source
        Who answered last, None at the start.
    difference
        Aligned reference energy minus committee energy where both were last known, eV.
    jump_sum
        Sum of all energy jumps, eV: kinetic plus potential energy minus this
        is what MD conserves.
    parent
        Content hash of the last frame of this trajectory that was stored;
        empty before the first.
    streak
        Whether the committee was uncertain a few steps ago.
    last
        Bytes of the geometry looked at last, with what was seen; a geometry
        asked again at once, after an error say, is not looked at twice.
    """

    monitor: Monitor
    source: Source | None = None
    difference: float = 0.0
    jump_sum: float = 0.0
    parent: str = ""
    streak: Streak = field(default_factory=Streak)
    last: tuple[tuple[bytes, ...], Survey] | None = None

    def survey(self, atoms: Atoms, key: tuple[bytes, ...]) -> Survey:
        """Look at a geometry, once however often it is asked for in a row."""
        if self.last is None or self.last[0] != key:
            self.last = (key, self.monitor.survey(atoms))
        return self.last[1]

    def revisit(self, atoms: Atoms, key: tuple[bytes, ...], step: Step) -> Step:
        """Take in a geometry that the engine answered before; return its step with our jump."""
        if self.last is not None and self.last[0] == key:
            return step
        self.survey(atoms, key)
        difference = None if step.energy_error is None else -step.energy_error
        jump = self.jump_to(step.source, difference)
        return step if jump == step.energy_jump else replace(step, energy_jump=jump)

    def jump_to(self, source: Source, difference: float | None) -> float:
        """Note who answers now and return the energy jump, eV.

        A change to the reference jumps here, where both energies are known;
        a change back jumps by what was last known of their difference.
        """
        before, self.source = self.source, source
        if difference is not None:
            self.difference = difference
        if before is None or before is source:
            return 0.0
        jump = self.difference if source is Source.REFERENCE else -self.difference
        self.jump_sum += jump
        return jump

    def state(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "monitor": self.monitor.state(),
            "source": None if self.source is None else self.source.value,
            "difference": self.difference,
            "jump_sum": self.jump_sum,
            "parent": self.parent,
            "streak": self.streak.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.monitor.restore(state["monitor"])
        self.source = None if state["source"] is None else Source(state["source"])
        self.difference, self.jump_sum = state["difference"], state["jump_sum"]
        self.parent = state.get("parent", "")
        streak = state.get("streak")
        if not isinstance(streak, dict):  # earlier versions kept the calm steps alone
            streak = {"calm": streak, "open": False}
        self.streak.restore(streak)
