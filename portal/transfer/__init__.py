"""How a job's folder gets to the compute nodes, and how what the node wrote comes back."""
