"""What a committee bundle says about itself, as a table a person can read."""

from __future__ import annotations

from ase.data import chemical_symbols
from rich.console import Console
from rich.table import Table

from hybrid_calc.committee.bundle import BundleHeader


def print_header(header: BundleHeader) -> None:
    """Print the header of a bundle."""
    architecture = header.architecture
    elements = [chemical_symbols[number] for number in header.varying[0]["atomic_numbers"]]
    level = "not known" if header.level is None else f"{header.level} ({header.level.hash})"
    table = Table(title=header.name, show_header=False)
    for name, value in (
        ("members", f"{header.members} {architecture['class']}"),
        ("elements", " ".join(elements)),
        ("cut-off", f"{architecture['r_max']:g} A, {architecture['num_interactions']} layers"),
        ("features", str(architecture["hidden_irreps"])),
        ("level of theory", level),
        ("training set", header.training_digest or "not known"),
        ("scope", "not validated" if header.scope is None else str(header.scope)),
        ("imported", header.created),
    ):
        table.add_row(name, value)
    for file, digest in header.sources.items():
        table.add_row(f"from {file}", f"SHA-256 {digest}")
    Console().print(table)
