"""The hybrid-calc command."""
