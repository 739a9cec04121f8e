"""Handle pixels and files; independent of networks.

A picture keeps its bit depth, transparency, colour profile and EXIF from reading to writing. Every fault of a file is
a ``PictureError``, every fault of a destination an ``OutputError``; a file is written whole or not at all.
"""
