"""Tables, figures and page, made from records and the masks beside them. Never imports torch.

`report` reads everything below the folders once and makes the tables and their files.
"""
