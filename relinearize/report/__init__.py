"""Tables, figures and page, made from records and the masks beside them. Never imports torch.

`sources` reads everything below the folders once, `report` makes the tables and their files.
"""
