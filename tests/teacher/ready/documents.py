"""Documents that bring texts."""

from typing import Any

from datatrove.data import Document


def document(text: str, *rewrites: Any, id: str = "d") -> Document:
    return Document(text=text, id=id, metadata={"rewrites": list(rewrites)} if rewrites else {})
