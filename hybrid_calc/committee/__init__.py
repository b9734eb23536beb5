"""Potentials that answer together: ANI, MACE, any ASE calculators, a toy."""
