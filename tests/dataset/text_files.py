"""Annotation and list files as users write them."""


def text_file(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)
