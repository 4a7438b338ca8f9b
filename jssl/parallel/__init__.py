"""Several devices and several processes: the mesh, and what the processes agree on."""
