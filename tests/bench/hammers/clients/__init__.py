"""The load as people write it with a library: one file each, run by itself."""
