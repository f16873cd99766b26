"""What runs on the compute nodes: the wrapper around a program, and the formats of its files.

Standard library only, Python 3.6 or newer, and nothing from the rest of the portal: nodes have nothing of
ours but the one file `wrapper.pyz`, which `portal.jobs.node_files` makes of this package.
"""
