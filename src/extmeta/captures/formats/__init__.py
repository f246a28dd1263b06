"""Formats of other programs, a module each; :mod:`extmeta.captures.read` tries them.

A module has

- ``NAME``, for messages;
- ``recognises(source)``, which tells by content whether a `Source` is of its format;
- ``read(source)``, which returns a `Capture` or raises `CaptureError`; that of `vmcore`
  takes a process too;
- ``trace``, if the format tells which pages were written or accessed when.

A file may come from anyone. Nothing in it is believed unchecked, and memory is bounded
by the file's size. What a format does not tell is said in `Capture.about`.
"""
