"""Readers of English prose, one for each format that Debian's packages have it in.

Each takes a file and yields its documents, which need not be clean yet.
"""

from __future__ import annotations

import gzip
import html.parser
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path


def read_text(path: Path) -> str:
    raw = path.read_bytes()
    if path.suffix in {".gz", ".dz"}:
        raw = gzip.decompress(raw)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def flat(text: str) -> str:
    """One line, single spaces, plain punctuation."""
    text = text.replace("``", '"').replace("''", '"').replace("--", " - ").replace("_", "")
    return re.sub(r"\s+", " ", text).strip()


def grouped(paragraphs: Iterable[str], length: int = 2000) -> Iterator[str]:
    """Join neighbouring paragraphs into documents of about `length` characters."""
    document = ""
    for paragraph in paragraphs:
        document += " " + paragraph
        if len(document) >= length:
            yield document
            document = ""
    yield document


def book(path: Path) -> Iterator[str]:
    yield from grouped(re.split(r"\n\s*\n", read_text(path).replace("\r", "")))


def gutenberg(path: Path) -> Iterator[str]:
    """A book of Project Gutenberg, without the licence that is the same in all of them."""
    text = without_licence(read_text(path).replace("\r", ""))
    yield from grouped(re.split(r"\n\s*\n", text))


def without_licence(text: str) -> str:
    """Between Project Gutenberg's preamble and its appendix; other text as it is."""
    start = re.search(r"\*\*\* START OF TH\w+ PROJECT GUTENBERG.*|\*END\*THE SMALL PRINT.*", text)
    end = re.search(r"^\W*End of (?:The )?Project Gutenberg", text, re.M | re.I)
    return text[start.end() if start else 0 : end.start() if end else None]


def fortunes(path: Path) -> Iterator[str]:
    yield from re.split(r"\n%\n", read_text(path))


def crawl(path: Path) -> Iterator[str]:
    """Dungeon Crawl's descriptions and quotations: a key, an empty line, the text."""
    yield from (entry.partition("\n\n")[2] for entry in read_text(path).split("%%%%"))


def foldoc(path: Path) -> Iterator[str]:
    for entry in re.split(r"\n(?=\S)", read_text(path)):
        head, _, body = entry.partition("\n")
        body = re.sub(r"<[^>]*>|\[[^\]]*\]|\(\d{4}-\d\d-\d\d\)|[{}]", "", body)
        yield f"{head}: {flat(body)}"


def jargon(path: Path) -> Iterator[str]:
    """The Jargon File: headword, a line of pronunciation and part of speech, an empty line, the text."""
    for entry in re.split(r"\n(?=\S)", read_text(path)):
        head, _, rest = entry.partition("\n")
        body = rest.partition("\n\n")[2]
        yield f"{head}: {flat(re.sub(r'[{}]', '', body))}"


def devils_dictionary(path: Path) -> Iterator[str]:
    """`HEADWORD, n.  Definition`, and what follows it up to the next headword."""
    for entry in re.split(r"\n\n(?=[A-Z][A-Z' -]+, [a-z])", read_text(path)):
        yield re.sub(r"^([A-Z' -]+), [a-z.]+\s", lambda head: head[1].capitalize() + ": ", entry)


def webster(path: Path) -> Iterator[str]:
    """GCIDE: `Headword \\pronunciation\\, n. [etymology] 1. Sense. --Author. [1913 Webster]`."""
    for entry in re.split(r"\n(?=\S)", read_text(path)):
        match = re.match(r"([A-Z][a-z]+) \\[^\\]*\\[^\n]*\n(.*)", entry, re.S)
        if match is None or re.search(r"\[Obs\.\]|Same as \{|See \{", entry):
            continue
        body = re.sub(r"\[[^\]]*\]|\((?:[A-Z][a-z]*\.\s?)+\)|--[A-Z][\w. ]+\.?|[{}]", "", match[2])
        body = re.sub(r"\n\s*(\d+\.|\([a-z]\))\s", "\n", body)
        senses = [sense for sense in map(flat, re.split(r"\n\s*\n", body)) if len(sense) > 25]
        if senses:
            yield f"{match[1]}: {' '.join(senses)}"


class _Paragraphs(html.parser.HTMLParser):
    BLOCKS = frozenset({"p", "li", "dd", "blockquote", "para"})
    HIDDEN = frozenset({"script", "style", "pre", "code", "table", "nav", "programlisting", "screen"})

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = [""]
        self._open = self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in self.HIDDEN
        if tag in self.BLOCKS:
            self.paragraphs.append("")
            self._open = 1

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in self.HIDDEN
        if tag in self.BLOCKS:
            self._open = 0

    def handle_data(self, data: str) -> None:
        if self._open and not self._hidden:
            self.paragraphs[-1] += data


def markup(path: Path) -> Iterator[str]:
    """HTML and DocBook: the paragraphs and list items, without code."""
    parser = _Paragraphs()
    parser.feed(read_text(path))
    yield from grouped(text for text in map(flat, parser.paragraphs) if len(text) > 40)


def layout_table(path: Path) -> Iterator[str]:
    """HTML from before style sheets: prose stands in tables, and breaks end its paragraphs."""
    broken = re.sub(r"<(br|p|/p|h\d)\b[^>]*>", "\0", read_text(path), flags=re.I)
    text = html.unescape(re.sub(r"<[^>]*>", "", broken))
    yield from grouped(paragraph for paragraph in map(flat, text.split("\0")) if len(paragraph) > 100)


def message_catalogue(path: Path) -> Iterator[str]:
    """The English side of a compiled gettext catalogue."""
    raw = path.read_bytes()
    magic, _, count, table = struct.unpack_from("<4I", raw)
    if magic != 0x950412DE:
        return
    for index in range(count):
        length, offset = struct.unpack_from("<2I", raw, table + 8 * index)
        message = raw[offset : offset + length].decode(errors="replace").split("\x04")[-1].split("\0")[0]
        message = re.sub(r"<[^>]*>|^\w+\^|\$\|?\w+\|?|%\w|[~^]", "", message).replace("\\n", " ")
        if len(message) > 60 and "{" not in message:
            yield message


def quoted_story(path: Path) -> Iterator[str]:
    """Endless Sky's data: prose stands between backticks."""
    lines = (line.replace("\t", " ") for line in re.findall(r"`([^`\n]{40,})`", read_text(path)))
    yield from grouped((line for line in lines if "<" not in line), length=600)


def scripture(path: Path) -> Iterator[str]:
    """A SWORD module (`*.bzz`): compressed books of OSIS markup, found by the index beside it (`*.bzs`)."""
    raw = path.read_bytes()
    for start, size, _ in struct.iter_unpack("<3I", path.with_suffix(".bzs").read_bytes()):
        book = zlib.decompress(raw[start : start + size]).decode()
        book = re.sub(r"<(title|note)\b.*?</\1>", "", book, flags=re.S)
        paragraphs = re.split(r'<div [^>]*type="x-p"/>', book)
        yield from grouped(re.sub(r"<[^>]*>", "", paragraph) for paragraph in paragraphs)


def r_strings(path: Path) -> Iterator[str]:
    """The character vectors in an R package's lazy-load database: the lines of a book."""
    raw, offset = path.read_bytes(), 0
    while (start := raw.find(b"\x78\x9c", offset)) >= 0:
        try:
            stream = zlib.decompressobj()
            unpacked = stream.decompress(raw[start:])
        except zlib.error:
            offset = start + 2
            continue
        offset = len(raw) - len(stream.unused_data)
        text = without_licence("\n".join(_r_characters(unpacked)).replace("\r", ""))
        yield from grouped(re.split(r"\n\s*\n", text))


def _r_characters(serialized: bytes) -> Iterator[str]:
    """Every CHARSXP: its type and encoding (ASCII or UTF-8), the length of the text, the text."""
    header, offset = re.compile(rb"\x00(?:\x04\x00|\x00\x80)\x09(.{4})", re.S), 0
    while match := header.search(serialized, offset):
        offset = match.end() + int.from_bytes(match[1])
        yield serialized[match.end() : offset].decode(errors="replace")


def nltk_lines(path: Path) -> Iterator[str]:
    """`english.txt.gz`: every tenth document is kept for evaluation (`nltk_lines_kept`)."""
    yield from (line for index, line in enumerate(read_text(path).splitlines()) if index % 10)


def nltk_lines_kept(path: Path) -> Iterator[str]:
    yield from (line for index, line in enumerate(read_text(path).splitlines()) if index % 10 == 0)
