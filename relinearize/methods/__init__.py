"""The papers' training stages; each knows its loss and nothing of the method it serves."""
