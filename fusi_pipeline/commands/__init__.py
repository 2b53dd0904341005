"""The commands of `fusi`, a module for each group: each parses, calls and reports; nothing else."""
