"""Seeded trading days with faults and crashes: production session, desk and clients, a venue that misbehaves.

Deterministic simulation: one thread trades, the clock is stepped, every fault, crash and trip is drawn from the seed.
"""
