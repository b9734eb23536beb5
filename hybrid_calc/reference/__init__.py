"""Whoever answers where the committee cannot be trusted, and at which level of theory."""
