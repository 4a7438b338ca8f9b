"""Import of weights from other libraries, and export to them. It needs only NumPy."""
