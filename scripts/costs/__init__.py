"""The parts of scripts/fit_cost.py."""
