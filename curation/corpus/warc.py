"""Reads the records of a WARC or WET file, and reports where it breaks off."""

import itertools
from collections.abc import Iterator
from typing import Any

from datatrove.pipeline.readers.warc import process_record
from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed
from warcio.statusandheaders import StatusAndHeadersParserException


class TornRecord(Exception):
    """Bytes that are no record, or fewer than its headers say; `row` is its place in the file."""

    def __init__(self, row: int, reason: str):
        super().__init__(reason)
        self.row = row


def read_warc(chunks: Iterator[bytes]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The text records (HTML responses, extracted text) with their places among all records of the uncompressed file.

    A record is `{text, id, url, date, html}`, or None where its bytes are text of no known encoding. Records of other
    kinds (requests, images) are left out. Raises TornRecord, and what `chunks` raises.
    """
    stream = _Stream(chunks)
    records = ArchiveIterator(stream)
    for row in itertools.count():
        try:
            record = next(records, None)
            if record is None:
                # warcio skips a record that ends in its headers.
                if records.next_line:
                    raise TornRecord(row, f"record {row} ends in its headers")
                break
            if not record.rec_headers.get_header("Content-Length"):
                raise TornRecord(row, f"record {row} does not say its length")
            if record.rec_type in ("response", "conversion"):
                yield from _text(row, record)
            else:
                record.content_stream().read()
            # warcio takes the end of the file for the end of the record.
            if record.raw_stream.limit > 0:
                raise TornRecord(row, f"{record.raw_stream.limit} bytes of record {row} are missing")
        except (ArchiveLoadFailed, StatusAndHeadersParserException, ValueError, KeyError) as error:
            raise TornRecord(row, f"no record: {' '.join(str(error).split())}") from None
        except (EOFError, AttributeError):
            # warcio raises these for headers that end early or name no target.
            raise TornRecord(row, "a record without its headers") from None
    if row == 0 and stream.read_any:
        raise TornRecord(0, "no WARC record")


def _text(row: int, record: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
    # datatrove reads payload type, encoding and headers; it gives None for pictures and for bad bytes alike.
    values = process_record(record)
    if record.raw_stream.limit > 0:
        return
    declared = record.http_headers and record.http_headers.get_header("Content-Type")
    if values is not None:
        page = {"html": record.rec_type == "response"}
        yield row, {key: values[key] for key in ("id", "text", "url", "date")} | page
    elif (declared or "").lower().startswith(("text/html", "application/xhtml")):
        yield row, None


class _Stream:
    """Chunks of bytes as a file, from which warcio reads."""

    def __init__(self, chunks: Iterator[bytes]):
        self._chunks, self._rest = chunks, b""
        self.read_any = False

    def read(self, size: int) -> bytes:
        # A chunk may be empty before the end, where a decoder needs more bytes.
        data = self._rest or next((chunk for chunk in self._chunks if chunk), b"")
        self.read_any |= bool(data)
        self._rest = data[size:]
        return data[:size]
