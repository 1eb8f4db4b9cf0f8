"""Vendors of daily bars: one adapter each, all with the same face, and the ordered fallback over them."""
