"""Folders of pictures: pair inputs with outputs, restore or degrade them, keep a journal of what is done."""
