"""What counts once in an interval."""

from datatrove.data import Document

from teacher.reward.assignment import clusters_of


def test_clusters_are_batches_or_the_titles_of_documents_that_are_taught_alone():
    documents = [
        Document(text, f"d{n}", metadata={"title": title} if title else {})
        for n, (text, title) in enumerate([("a", "Oslo"), ("b", None), ("c", "oslo "), ("b", None), ("d", "Bergen")])
    ]
    assert clusters_of(documents, 2) == [0, 0, 1, 1, 2]
    assert clusters_of(documents, 1) == [0, 1, 0, 1, 4], "texts without a title are their own"
