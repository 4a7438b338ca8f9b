"""Evaluations of an encoder: one protocol per file.

Each is a function of features and labels (knn, linear) or of a method and its state, and does not
depend on the method. Accuracies are fractions in 0..1.
"""
