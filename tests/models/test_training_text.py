"""The text that the masked-LM adapter learns from: read out of its packages, sifted, dealt out in epochs."""

from __future__ import annotations

import argparse
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from models.defaults.training import readers
from models.defaults.training.evaluate_masked_lm import Score, pooled
from models.defaults.training.prepare_text import HELD_OUT, TRAIN, Origin, documents
from models.defaults.training.train_masked_lm import Recipe, Text, limit
from models.defaults.training.written import variety, worth_reading, written

PROSE = (
    "The harbour lay quiet before sunrise. A fisherman mended his nets beside the water while gulls circled "
    "above the roofs, and somewhere behind the warehouses a bell rang for the early shift. Nobody spoke. "
    "When light finally touched the masts, three boats slid out past the breakwater and turned north."
)


@pytest.mark.parametrize(
    ("preamble", "appendix"),
    [
        ("*** START OF THIS PROJECT GUTENBERG EBOOK MOBY DICK ***", "End of Project Gutenberg's Moby Dick"),
        (
            "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.07.02.92*END*",
            "End of the Project Gutenberg Etext",
        ),
    ],
)
def test_a_book_of_project_gutenberg_loses_what_all_of_them_say(
    tmp_path: Path, preamble: str, appendix: str
) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(
        f"Legalese.\r\n{preamble}\r\nCall me Ishmael.\r\n\r\n{appendix}\r\nMore legalese.".encode()
    )
    assert [text.strip() for text in readers.gutenberg(path)] == ["Call me Ishmael."]


def test_a_book_without_a_licence_stays_whole() -> None:
    assert readers.without_licence("Alice was beginning to get tired.") == "Alice was beginning to get tired."


def test_strings_of_an_r_database_may_be_long_and_utf_8(tmp_path: Path) -> None:
    texts = ["It is a truth universally acknowledged", "“" + "whale " * 100 + "”"]
    encoded = [
        (b"\x00\x04\x00\x09" if text.isascii() else b"\x00\x00\x80\x09") + struct.pack(">I", len(raw)) + raw
        for text in texts
        for raw in [text.encode()]
    ]
    path = tmp_path / "Rdata.rdb"
    path.write_bytes(b"\x00\x00\x00\x09" + zlib.compress(b"".join(encoded)))
    assert readers.flat("".join(readers.r_strings(path))) == readers.flat("\n".join(texts))


def test_scripture_is_read_book_by_book_without_titles_and_marks(tmp_path: Path) -> None:
    books = [
        '<title type="main">Exodus</title><div sID="g1" type="x-p"/><w lemma="H1">Now</w> <w>these</w> are',
        '<div sID="g2" type="x-p"/>And there was evening<note n="1">or dusk</note>.',
    ]
    packed = [zlib.compress(book.encode()) for book in books]
    (tmp_path / "ot.bzz").write_bytes(b"".join(packed))
    starts = [0, len(packed[0])]
    index = [struct.pack("<3I", start, len(raw), 0) for start, raw in zip(starts, packed, strict=True)]
    (tmp_path / "ot.bzs").write_bytes(b"".join(index))
    assert [text.strip() for text in readers.scripture(tmp_path / "ot.bzz")] == [
        "Now these are",
        "And there was evening.",
    ]


def test_breaks_end_the_paragraphs_of_an_old_page(tmp_path: Path) -> None:
    path = tmp_path / "page.htm"
    path.write_text(f"<td><font size=3>{PROSE}<br></font><b>INDEX</b><BR> Caf&eacute; {PROSE}</td>")
    assert [text.strip() for text in readers.layout_table(path)] == [f"{PROSE} Café {PROSE}"]


def test_an_entry_of_a_dictionary_becomes_headword_and_text(tmp_path: Path) -> None:
    (tmp_path / "jargon").write_text(
        "blue wire\n n.\n\n    Patch wires added at the factory.\n    See {red wire}.\n"
    )
    assert list(readers.jargon(tmp_path / "jargon")) == [
        "blue wire: Patch wires added at the factory. See red wire."
    ]
    (tmp_path / "devil").write_text("AIM, n.  The task we set our wishes to.\n\nAIR, n.  A substance.")
    assert [readers.flat(entry) for entry in readers.devils_dictionary(tmp_path / "devil")] == [
        "Aim: The task we set our wishes to.",
        "Air: A substance.",
    ]


@pytest.mark.parametrize(
    "document",
    [
        PROSE[:150],
        PROSE + " As an AI, I have never seen a harbour.",
        PROSE + " I'm sorry, but that is all.",
        "The sea is blue and the sky is blue. " * 10,
    ],
    ids=["short", "about itself", "refusal", "in circles"],
)
def test_what_a_model_should_not_have_written_is_left_out(tmp_path: Path, document: str) -> None:
    assert worth_reading(PROSE)
    (tmp_path / "smollm2.txt").write_text(f"{PROSE}\n{document}\n")
    assert list(written(tmp_path / "smollm2.txt")) == [PROSE]


def test_variety_is_one_when_no_two_words_meet_again() -> None:
    assert variety("a b c d") == 1
    assert variety("a b a b a") == 0.5
    assert variety("") == 0


def test_a_document_comes_once_and_never_with_a_slur(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n%\n".join([PROSE, PROSE.upper(), PROSE, PROSE + " Gooks!", "short"]))
    assert list(documents(Origin("x", "text", readers.fortunes), tmp_path)) == [PROSE, PROSE.upper()]


def test_no_file_that_is_trained_on_is_held_out_whole() -> None:
    """`english.txt.gz` is shared out by document: nine tenths to one side, one to the other."""
    shared = {origin.files for origin in TRAIN} & {origin.files for origin in HELD_OUT}
    assert shared == {"english.txt.gz"}


def test_an_epoch_takes_no_more_of_an_origin_than_it_may() -> None:
    origins = {name: [np.full(50, id, dtype=np.int32)] * 100 for id, name in enumerate(["a", "b", "c"])}
    recipe = Recipe(
        rank=1,
        peak_rate=0,
        minutes=0,
        tokens_per_step=500,
        tokens_per_origin=1000,
        at_most={"b": 200},
        masked=0,
        seed=0,
    )
    tokens = np.concatenate([window for batch in Text(origins).epoch(0, recipe) for window in batch])
    assert np.bincount(tokens).tolist() == [1000, 200, 1000]


def test_a_limit_names_its_origin() -> None:
    assert limit("foldoc=200000") == ("foldoc", 200_000)
    for wrong in ("foldoc", "foldoc=", "foldoc=-1"):
        with pytest.raises(argparse.ArgumentTypeError, match=wrong):
            limit(wrong)


def test_pooled_scores_weigh_by_what_was_asked() -> None:
    scores = [
        Score(origin="a", hidden=300, top_1=0.2, top_5=0.4),
        Score(origin="b", hidden=100, top_1=0.6, top_5=0.8),
    ]
    assert pooled(scores).hidden == 400
    assert pooled(scores).top_1 == pytest.approx(0.3)
    assert pooled(scores).top_5 == pytest.approx(0.5)
