"""A report of charts, tables and sentences, and the formats that it is written in.

`sections.document` makes it of rows. `charts` draws it; `html`, `letter` and `markdown`
write all of it, `flat` only its figures.
"""
