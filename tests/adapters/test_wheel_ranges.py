"""Parts of a file that is far away: what was read once is not asked for again."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from nnenv.adapters.http import RangeResult
from nnenv.adapters.wheel_ranges import Ends, ReadPart, file_parts

CONTENT = bytes(range(256)) * 4


class Source:
    """A file that counts what is asked of it."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self._read = file_parts(io.BytesIO(content))

    def read(self, start: int, end: int | None) -> RangeResult | None:
        """The part, noted."""
        self.asked.append((start, end))
        return self._read(start, end)


def data(read: ReadPart, start: int, end: int | None) -> bytes:
    """The bytes of a part that is there."""
    part = read(start, end)
    assert part is not None
    return part.data


def test_what_lies_in_the_end_is_not_asked_again() -> None:
    """Nor is more than what is missing of a part that begins before it."""
    source = Source()
    read = Ends().reading("a", source.read)
    assert data(read, -100, None) == CONTENT[-100:]
    assert data(read, 1000, 1010) == CONTENT[1000:1010]
    assert data(read, 900, 1000) == CONTENT[900:1000]
    assert data(read, -124, None) == CONTENT[-124:]
    assert source.asked == [(-100, None), (900, 924)]


def test_files_do_not_mix() -> None:
    """Each has its own end."""
    ends, first, second = Ends(), Source(), Source(CONTENT[::-1])
    assert data(ends.reading("a", first.read), -10, None) == CONTENT[-10:]
    assert data(ends.reading("b", second.read), -10, None) == CONTENT[::-1][-10:]


def test_the_oldest_are_forgotten() -> None:
    """Memory is bounded: a file that was read long ago is asked again."""
    ends, source = Ends(limit=150), Source()
    for key in ("a", "b"):
        data(ends.reading(key, source.read), -100, None)
    data(ends.reading("a", source.read), -100, None)
    assert len(source.asked) == 3
    assert data(ends.reading("c", source.read), -500, None) == CONTENT[-500:]


def test_a_file_that_changed_meanwhile() -> None:
    """Its parts do not fit together, so there are none."""
    ends, short = Ends(), Source(CONTENT[:-24])
    data(ends.reading("a", Source().read), -100, None)
    assert ends.reading("a", short.read)(800, 950) is None


@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(1, 1024)), max_size=8), st.integers(1, 1024))
def test_any_order_of_parts(parts: list[tuple[int, int]], tail: int) -> None:
    """The same bytes as the file itself gives."""
    read = Ends(limit=700).reading("a", Source().read)
    assert data(read, -tail, None) == CONTENT[-tail:]
    for start, length in parts:
        assert data(read, start, start + length) == CONTENT[start : start + length]
