"""Chaos on a real Slurm: jobs go in all the time while everything that can die is killed. `make chaos MINUTES=10`."""
