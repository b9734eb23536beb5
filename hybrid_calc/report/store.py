"""What a store holds, as tables a person can read."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from hybrid_calc.store.frames import Content, FrameStore
from hybrid_calc.store.verify import Findings, check_store


def print_content(console: Console, store: FrameStore) -> None:
    """Print levels, regimes, committees and rejected frames of a store."""
    content = store.read()
    labelled = [record for record in content.records if record.label is not None]
    rejected = [record for record in content.records if record.label is None]
    console.print(f"{store.path.name}: {len(labelled)} validated frames, {len(rejected)} rejected")
    for level in store.levels:
        console.print(f"level of theory: {level} ({level.hash})", highlight=False, markup=False)
    formulas = Counter(record.atoms().get_chemical_formula() for record in labelled)
    committees = Counter(
        f"{r.meta.get('committee_name', '?')} ({r.meta.get('committee', '?')})" for r in labelled
    )
    for title, counts in (("molecule", formulas), ("committee", committees)):
        for name, frames in counts.most_common():
            console.print(f"{title}: {name}, {frames} frames", highlight=False, markup=False)
    if labelled:
        table = Table("regime", "frames", "within tolerance", "largest force error, eV/A")
        for regime in sorted({str(record.meta.get("regime")) for record in labelled}):
            metas = [r.meta for r in labelled if str(r.meta.get("regime")) == regime]
            judged = [meta for meta in metas if meta.get("force_error") is not None]
            good = sum(bool(meta["good"]) for meta in judged)
            worst = max((meta["force_error"] for meta in judged), default=float("nan"))
            share = f"{good} of {len(judged)}"
            table.add_row(regime, str(len(metas)), share, f"{worst:.2f}")
        console.print(table)
    for record in rejected:
        sentence = f"rejected {record.identity}: {record.rejection}"
        console.print(sentence, highlight=False, markup=False)
    _print_damage(console, content)


def print_damage(console: Console, store: FrameStore) -> bool:
    """Print what of a store is damaged; return whether it is whole."""
    findings = check_store(store)
    _print_damage(console, findings)
    if not findings.damage:
        console.print(f"{store.path.name}: {findings.frames} frames, every digest agrees")
    return not findings.damage


def _print_damage(console: Console, content: Content | Findings) -> None:
    for title, style, sentences in (
        ("damaged", "red", content.damage),
        ("never acknowledged", "yellow", content.torn_tails),
    ):
        for sentence in sentences:
            console.print(f"{title}: {sentence}", style=style, highlight=False, markup=False)
