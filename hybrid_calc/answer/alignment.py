"""Energy zeros: two levels of theory are compared only after they were made to agree once."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_calc.committee.prediction import Prediction
from hybrid_calc.errors import PredictionFailed
from hybrid_calc.geometry import Composition
from hybrid_calc.reference.label import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """The energy zeros of the two levels for one composition.

    Attributes
    ----------
    committee, reference
        What is subtracted from each one's energies, eV; None while not known.
    """

    committee: float | None = None
    reference: float | None = None

    @property
    def complete(self) -> bool:
        """Whether both are known."""
        return self.committee is not None and self.reference is not None

    def of_committee(self, prediction: Prediction) -> float:
        """Return the committee's energy on the common zero, eV."""
        return prediction.energy - (self.committee or 0.0)

    def of_reference(self, label: Label) -> float:
        """Return the reference's energy on the common zero, eV."""
        return label.energy - (self.reference or 0.0)


UNALIGNED = Alignment()


class Alignments:
    """The alignment of every composition met so far."""

    def __init__(self) -> None:
        self._known: dict[str, Alignment] = {}

    def align(
        self, composition: Composition, prediction: Prediction | None, label: Label | None
    ) -> Alignment:
        """Return what to subtract from each level's energies for this composition.

        Whoever answers first keeps its own zero.  The other's is set at the
        first geometry that both know, so that they agree there, and is then
        never changed: a change would be a jump.

        Raises
        ------
        PredictionFailed
            The committee answered before, cannot now, and no label has yet
            told how far apart the two zeros are.
        """
        key = composition.name
        known = self._known.get(key, UNALIGNED)
        if known.complete:
            return known
        if label is not None and prediction is not None:
            between = label.energy - prediction.energy
            if known.reference is None:
                known = Alignment(committee=0.0, reference=between)
            else:
                known = Alignment(committee=known.reference - between, reference=known.reference)
        elif label is not None and known.reference is None:
            if known.committee is not None:
                raise PredictionFailed(
                    "the committee answered this molecule before and fails at this geometry, and "
                    "no label tells how far apart the energy zeros of committee and reference "
                    "are. Label one geometry first: keep gate.policies with unseen."
                )
            known = Alignment(reference=0.0)
        elif label is None and prediction is not None and known.committee is None:
            known = Alignment(committee=0.0)
        self._known[key] = known
        return known

    def missing(self, composition: Composition, prediction: Prediction | None) -> str:
        """Return why a label is needed before the committee may answer; empty where it may."""
        known = self._known.get(composition.name)
        if prediction is None or known is None or known.committee is not None:
            return ""
        return "the energy zeros of committee and reference are not aligned yet"

    def state(self) -> dict[str, list[float | None]]:
        """Return everything as JSON-able data."""
        return {name: [zero.committee, zero.reference] for name, zero in self._known.items()}

    def restore(self, state: dict[str, list[float | None]]) -> None:
        """Take back what `state` returned."""
        self._known = {
            name: Alignment(committee=committee, reference=reference)
            for name, (committee, reference) in state.items()
        }
