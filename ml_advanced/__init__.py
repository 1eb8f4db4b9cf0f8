"""The ensemble: how likely a signal's trade ends in profit. Features, labels, regime, folds, training, model store.

It knows core and config only; `scripts/ml_data.py` hands it the engine's trades, bars and VIX as plain values.
scikit-learn is imported here and nowhere else, and only to fit: what predicts is numpy on stored arrays.
"""
