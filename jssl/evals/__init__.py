"""Evaluations: what an encoder is worth, one protocol a file.

Each is a function of features and labels (knn, linear) or of a method and its state; none knows
which method made them. Accuracies are fractions in 0..1.
"""
