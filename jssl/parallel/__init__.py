"""Several devices and several processes: the mesh, and agreement between processes."""
