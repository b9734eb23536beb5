"""Jobs: molecular dynamics, relaxation, bands."""
