"""What a change of the lock does to an image."""

from __future__ import annotations

import pytest

from nnenv.image.layer_difference import ImageDifference, LayerMove, image_difference
from nnenv.image.plan import OWN_LAYER, plan_layers
from nnenv.spec.artifact import Artifact
from nnenv.spec.lockfile import ImageLock, Lockfile, TargetLock
from tests.resolve.locks import deb, image, lock, model_file, target, wheel

SHARED, REMADE, NEW, GONE = LayerMove.SHARED, LayerMove.REMADE, LayerMove.NEW, LayerMove.GONE
BIG = OWN_LAYER + 1
BASE = [deb("libc6", size=1000), deb("python3.11-minimal", size=2000)]

Side = tuple[Lockfile, TargetLock]


def side(*artifacts: Artifact, built: ImageLock | None = None, **manifest: object) -> Side:
    """A lock of one target."""
    everything = [*BASE, *artifacts]
    chosen = target("cpu", everything, image=built)
    return lock(everything, chosen, **manifest), chosen


def moves(difference: ImageDifference) -> list[tuple[str, LayerMove]]:
    """Titles and what happens to them."""
    return [(layer.title, layer.move) for layer in difference.layers]


def test_digests_decide_where_both_are_built() -> None:
    """A wheel moved, another went, a model came: two figures, by digest and from the bottom up."""
    old = image(("os debian:12", "o", 1), ("aa 1", "a", 10), ("numpy 1.0", "n1", 100), ("model m 1", "m", 1000))
    new = image(("os debian:12", "o", 1), ("numpy 2.0", "n2", 200), ("model m 1", "m", 1000), ("model n 1", "n", 5000))
    difference = image_difference(side(built=old), side(built=new))
    assert moves(difference) == [
        ("os debian:12", SHARED),
        ("numpy 2.0", REMADE),
        ("model m 1", SHARED),
        ("model n 1", NEW),
        ("aa 1", GONE),
    ]
    assert (difference.exact, difference.pull, difference.pull_by_chain) == (True, 5200, 6200)
    assert [difference.count(move) for move in LayerMove] == [2, 1, 1, 1]


def test_a_layer_that_only_changed_its_place_is_shared_by_digest() -> None:
    """Pulled once, and not at all by digest; from the bottom up it is pulled anew."""
    one, two = ("aa 1", "a", 10), ("bb 1", "b", 20)
    difference = image_difference(side(built=image(one, two)), side(built=image(two, one, ("cc 1", "b", 20))))
    assert [move for _, move in moves(difference)] == [SHARED, SHARED, SHARED]
    assert (difference.pull, difference.pull_by_chain) == (0, 50)


def test_a_target_that_came_or_went() -> None:
    """Everything has to be pulled, or nothing."""
    built = image(("os debian:12", "o", 1), ("nnenv", "x", 2))
    came, went = image_difference(None, side(built=built)), image_difference(side(built=built), None)
    assert (came.exact, came.pull, came.pull_by_chain, came.count(NEW)) == (True, 3, 3, 2)
    assert (went.exact, went.pull, went.pull_by_chain, went.count(GONE)) == (True, 0, 0, 2)


def test_plans_decide_where_one_side_is_not_built() -> None:
    """Sizes come from the files that go in; what stays the same is shared."""
    difference = image_difference(
        side(wheel("numpy", "1.0", size=BIG), wheel("small"), model_file("m", size=5000)),
        side(wheel("numpy", "2.0", size=2 * BIG), wheel("small"), model_file("m", size=5000)),
    )
    assert moves(difference) == [
        ("os debian:12", SHARED),
        ("os state", SHARED),
        ("python 3.11.2 bytecode", SHARED),
        ("numpy 2.0", REMADE),
        ("other wheels", SHARED),
        ("wheels bytecode", REMADE),
        ("model m 1", SHARED),
        ("nnenv", REMADE),
    ]
    assert not difference.exact
    wheels = next(layer for layer in difference.layers if layer.title == "numpy 2.0")
    assert wheels.size == pytest.approx(2 * BIG, rel=0.05)
    assert difference.pull == sum(layer.size for layer in difference.layers if layer.move is REMADE)
    assert difference.pull_by_chain - difference.pull == sum(
        layer.size for layer in difference.layers[4:] if layer.move is SHARED
    )


def test_sizes_of_a_built_side_are_taken_over() -> None:
    """Where what goes into a layer did not change, the built image tells its size."""
    old = side(wheel("numpy", "1.0", size=BIG), model_file("m"))
    layers = [(plan.title, plan.title, 7000 + number) for number, plan in enumerate(plan_layers(*old))]
    built = side(wheel("numpy", "1.0", size=BIG), model_file("m"), built=image(*layers))
    difference = image_difference(built, side(wheel("numpy", "2.0", size=BIG), model_file("m")))
    sizes = {layer.title: layer.size for layer in difference.layers}
    assert (sizes["os debian:12"], sizes["os state"], sizes["model m 1"]) == (7000, 7001, 7005)
    assert sizes["numpy 2.0"] > BIG


def test_a_security_fix_in_the_os_leaves_wheels_and_bytecode_alone() -> None:
    """The interpreter's bytecode is made anew for a new interpreter only; the user belongs to the generated state."""
    fixed = deb("libssl3", "2", size=100)
    difference = image_difference(side(deb("libssl3", size=100), wheel("aa")), side(fixed, wheel("aa")))
    assert [title for title, move in moves(difference) if move is REMADE] == ["os debian:12", "os state", "nnenv"]
    other_user = image_difference(side(image={"user": "1"}), side(image={"user": "2"}))
    assert [title for title, move in moves(other_user) if move is REMADE] == ["os state", "nnenv"]


def test_estimates_are_near_what_a_real_image_weighs() -> None:
    """examples/digits on debian:12: 14.3 MB of .debs and 45.2 MB of wheels built to 122 MB of layers."""
    artifacts = [
        deb("libc6", size=14_312_096),
        wheel("numpy", size=16_900_000),
        wheel("onnxruntime", size=27_773_237),
        wheel("rest", size=500_000),
        model_file("digits", size=153_926),
    ]
    chosen = target("cpu", artifacts)
    difference = image_difference(None, (lock(artifacts, chosen), chosen))
    assert difference.pull == pytest.approx(122_328_000, rel=0.05)
