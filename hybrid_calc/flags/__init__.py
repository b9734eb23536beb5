"""What physics says about one geometry."""
