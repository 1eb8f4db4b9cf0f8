"""The ensemble: members, their calibration, what is out of distribution, and the predictor that a scan asks."""
