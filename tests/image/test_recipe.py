"""The image recipe: everything of ours that becomes image bytes is pinned by the recipe's number."""

from __future__ import annotations

import hashlib

from nnenv.image.bytecode import PROGRAM
from nnenv.image.plan import RECIPE
from nnenv.verify.evaluate import harness_digest
from nnenv.verify.harness import FILES
from nnenv.workflows.layering import HARNESS_FILES, harness_files

HARNESS = {
    1: "d8891c8e0c1018cf6269ce4685bc3ea31f870de3942d49744ed0ee8388ac39eb",
    2: "2395ac1b33630a891a26be86ff8fd2e418a959a2db3fc349068e6c0629841982",
}
"""Recipe -> digest of the harness that its images hold."""

PROGRAM_DIGEST = dict.fromkeys((1, 2), "b5bf70329f943c65224994b5a6dedde9d7e6a6c25907efce8e585abd3557252e")
"""Recipe -> digest of the program that compiles its bytecode."""


def test_the_harness_changes_only_with_the_recipe() -> None:
    """Images hold the harness, so once a recipe is released another harness needs another recipe: else an old lock
    would build to other bytes."""
    assert harness_digest(harness_files()) == HARNESS[RECIPE]


def test_the_bytecode_program_changes_only_with_the_recipe() -> None:
    """marshal marks a string that something else in the process refers to, so each name and constant of the program
    can show in the bytecode of images, though it is not in them."""
    assert hashlib.sha256(PROGRAM.encode()).hexdigest() == PROGRAM_DIGEST[RECIPE]


def test_images_get_the_files_that_the_harness_names() -> None:
    """The harness says what it needs beside itself; building repeats the list, because importing it is slow."""
    assert HARNESS_FILES == FILES
