"""The papers' training stages; each is a LightningModule that knows its loss and nothing of the method it serves."""
