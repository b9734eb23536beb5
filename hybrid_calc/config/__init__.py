"""Settings files: YAML in, validated settings out, objects made from them."""
