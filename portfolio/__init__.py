"""Decides what to trade: strategies, quality gate, selection, sizing, exits, the scan, and the state documents."""
