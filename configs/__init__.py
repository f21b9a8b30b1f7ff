"""Configs: each file has get_config()."""
