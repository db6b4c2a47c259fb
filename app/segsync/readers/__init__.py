"""How each format is read: no byte of an untrusted file reaches code that could be harmed by it.

A reader gives what its file says (`Stored`) or raises InputError; `segsync.images` judges it, the same for all formats.
"""
