"""Multiruns: what the command knows of itself, which jobs it asks for, what became of each. Never imports torch."""
