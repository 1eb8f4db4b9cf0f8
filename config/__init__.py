"""Frozen settings, frozen strategy parameters, and the pin that names both."""
