"""Turns unpacked Debian packages into folders of plain text: one file an origin, one document a line.

Every origin is a row of `TRAIN` or `HELD_OUT`: its name, where its files are, and the reader that knows
their format. An origin whose package was not unpacked is skipped, and said so. Documents that contain a
slur are left out whole: what the model never read it will not say.

    for package in wordnet-base dict-gcide; do  # and the others
        apt-get download $package && dpkg -x ${package}_*.deb unpacked/$package
    done
    python -m models.defaults.training.prepare_text unpacked text
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models.defaults.training import readers
from models.defaults.training.wordnet import wordnet
from models.defaults.training.written import written

Reader = Callable[[Path], Iterator[str]]

SLURS = re.compile(
    r"\b(nigg(er|a)s?|fagg?ots?|kikes?|spics?|chinks?|wetbacks?|darkies|cunts?|trann(y|ies)|gooks?)\b", re.I
)
SHORTEST_DOCUMENT = 40  # characters; less than that is a label or a heading


@dataclass(frozen=True, slots=True)
class Origin:
    name: str
    files: str  # a glob below the folder of unpacked packages
    read: Reader


TRAIN = [
    Origin("wordnet", "wordnet-base/**/data.*", wordnet),
    Origin("webster", "dict-gcide/**/gcide.dict.dz", readers.webster),
    Origin("foldoc", "dict-foldoc/**/foldoc.dict.dz", readers.foldoc),
    Origin("speeches-news-letters", "english.txt.gz", readers.nltk_lines),
    Origin("austen", "r-cran-janeaustenr/**/data/Rdata.rdb", readers.r_strings),
    Origin("moby-dick", "r-cran-tokenizers/**/data/Rdata.rdb", readers.r_strings),
    Origin("dorian-gray", "presage/**/the_picture_of_dorian_gray.txt", readers.gutenberg),
    Origin("alice", "snappy/**/alice29.txt", readers.gutenberg),
    Origin("as-you-like-it", "snappy/**/asyoulik.txt", readers.gutenberg),
    Origin("paradise-lost", "snappy/**/plrabn12.txt", readers.gutenberg),
    Origin("electronic-texts", "snappy/**/lcet10.txt", readers.gutenberg),
    Origin("bible", "sword-text-web/**/*.bzz", readers.scripture),
    Origin("smollm2", "smollm2.txt", written),
    Origin("anarchism", "anarchism/**/html/*.html", readers.markup),
    Origin("copyright-does-not-exist", "cfi-en/**/html/*.htm", readers.layout_table),
    Origin("jargon", "dict-jargon/**/jargon.dict.dz", readers.jargon),
    Origin("devils-dictionary", "dict-devil/**/devil.dict.dz", readers.devils_dictionary),
    Origin("gnucash", "gnucash-docs/**/gnucash-guide-en/*.html", readers.markup),
    Origin("fortunes", "fortunes/usr/share/games/fortunes/[a-z]*[a-z]", readers.fortunes),
    Origin("endless-sky", "endless-sky-data/**/data/**/*.txt", readers.quoted_story),
    Origin("wesnoth", "wesnoth-*/**/de/LC_MESSAGES/*.mo", readers.message_catalogue),
    Origin("widelands", "widelands-data/**/de/LC_MESSAGES/*.mo", readers.message_catalogue),
    Origin("games", "f*-data/**/de/LC_MESSAGES/*.mo", readers.message_catalogue),
    Origin("games", "naev-data/**/*.mo", readers.message_catalogue),
    Origin("games", "unknown-horizons/**/de/LC_MESSAGES/*.mo", readers.message_catalogue),
    Origin("crawl", "crawl-common/**/dat/descript/*.txt", readers.crawl),
    Origin("gnome-help", "gnome-user-docs/usr/share/help/C/**/*.page", readers.markup),
    Origin("handbook", "debian-handbook/**/html/en-US/*.html", readers.markup),
    Origin("dhammapada", "display-dhammapada/**/dhammapada-english-transl.txt", readers.book),
]

HELD_OUT = [
    Origin("sherlock-holmes", "golang-github-pierrec-lz4-dev/**/pg1661.txt", readers.book),
    Origin("tom-sawyer", "golang-github-pierrec-lz4-dev/**/Mark.Twain-Tom.Sawyer.txt", readers.book),
    Origin("newton-opticks", "golang-1.19-src/**/Isaac.Newton-Opticks.txt", readers.book),
    Origin("sky-cultures", "stellarium-data/**/skycultures/*/description.en.utf8", readers.markup),
    Origin("debian-history", "debian-history/**/docs/*.en.html", readers.markup),
    Origin("speeches-news-letters", "english.txt.gz", readers.nltk_lines_kept),
]


def documents(origin: Origin, unpacked: Path) -> Iterator[str]:
    """The origin's documents, each once, clean and on one line."""
    seen: set[bytes] = set()
    for path in sorted(unpacked.glob(origin.files)):
        if not path.is_file():
            continue
        for document in map(readers.flat, origin.read(path)):
            digest = hashlib.md5(document.encode(), usedforsecurity=False).digest()
            if len(document) < SHORTEST_DOCUMENT or digest in seen or SLURS.search(document):
                continue
            seen.add(digest)
            yield document


def write(origins: Iterable[Origin], unpacked: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for origin in origins:
        lines = list(documents(origin, unpacked))
        if not lines:
            print(f"{origin.name}: nothing found in {origin.files}; is its package unpacked?")
            continue
        with (folder / f"{origin.name}.txt").open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
        print(f"{origin.name}: {len(lines)} documents, {sum(map(len, lines)) / 1e6:.2f} M characters")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("unpacked", type=Path, help="a folder with one folder for each unpacked package")
    parser.add_argument("text", type=Path, help="a new folder; train/ and held-out/ are made in it")
    options = parser.parse_args()
    write(TRAIN, options.unpacked, options.text / "train")
    write(HELD_OUT, options.unpacked, options.text / "held-out")


if __name__ == "__main__":
    main()
