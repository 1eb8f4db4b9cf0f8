"""Simulations over the same strategies and exit rules as the live path."""
