"""The headers of METADATA that resolution reads."""

from __future__ import annotations

import pytest
from packaging.utils import canonicalize_name

from nnenv.errors import NnenvError
from nnenv.formats.core_metadata import CoreMetadata, normal_name, read_metadata

WHAT = "demo-1.0-py3-none-any.whl"


def test_the_fields_that_matter() -> None:
    """Repeated fields in file order, names in any case; the description is not read."""
    data = (
        b"Metadata-Version: 2.1\nName: Demo\nversion: 1.0\nREQUIRES-DIST: bb>=1\nRequires-Dist: cc; extra == 'x'\n"
        b"Requires-Python: >=3.9\nProvides-Extra: x\n\nRequires-Dist: not-this\n"
    )
    assert read_metadata(data, WHAT) == CoreMetadata(
        name="Demo",
        version="1.0",
        requires=("bb>=1", "cc; extra == 'x'"),
        requires_python=">=3.9",
        extras=("x",),
    )


def test_a_folded_licence_with_blank_lines_does_not_end_the_headers() -> None:
    """Real METADATA folds whole licence texts into one header; their blank lines hold spaces."""
    data = b"Name: demo\nVersion: 1.0\nLicense: MIT\n        \n        Permission is\n\t\nRequires-Dist: bb\n\n"
    assert read_metadata(data, WHAT).requires == ("bb",)


def test_only_line_feeds_end_a_line() -> None:
    """Form feeds and Unicode line separators occur inside summaries and must not make headers."""
    data = "Name: demo\r\nVersion: 1.0\r\nSummary: a\x0cRequires-Dist: evil\u2028Name: other\r\n\r\nText".encode()
    found = read_metadata(data, WHAT)
    assert (found.name, found.version, found.requires) == ("demo", "1.0", ())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Name: demo\n",
        b"Version: 1.0\n\nName: demo\n",
        b"Name: demo\nName: other\nVersion: 1.0\n",
        b"Name: demo\nVersion: 1\nVersion: 2\n",
        b"\x00\xff\xfe garbage",
        b"<html>log in to this network</html>",
    ],
)
def test_metadata_without_one_name_and_version_is_refused(data: bytes) -> None:
    """Missing, doubled, or no metadata at all."""
    with pytest.raises(NnenvError) as caught:
        read_metadata(data, WHAT)
    assert caught.value.code == "wheel-refused"
    assert caught.value.where == WHAT
    assert caught.value.fix


@pytest.mark.parametrize(("name", "normal"), [("Foo_Bar", "foo-bar"), ("a.-_b", "a-b"), ("ruamel.yaml", "ruamel-yaml")])
def test_normal_names_are_those_of_packaging(name: str, normal: str) -> None:
    """PEP 503: one hyphen for each run of separators, lower case."""
    assert normal_name(name) == normal == canonicalize_name(name)
