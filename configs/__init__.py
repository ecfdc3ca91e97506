"""Experiments as data: each module has `get_config`, and `base` has every field."""
