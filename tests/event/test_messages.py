"""Messages as columns."""

import pytest

from metrics_pipeline.event.messages import Messages

MESSAGES = Messages([0, 1, 0], [5, 7, 6], [10, 11, 12], [b"a", None, b"bcd"])


def test_size_counts_the_bytes_of_values() -> None:
    assert len(MESSAGES) == 3
    assert MESSAGES.size_bytes == 4


def test_slices_join_to_the_whole() -> None:
    assert Messages.concat([MESSAGES[:1], MESSAGES[1:]]) == MESSAGES
    assert len(Messages.concat([])) == 0


def test_joining_leaves_the_parts_alone() -> None:
    part = MESSAGES[:1]
    Messages.concat([part, MESSAGES])
    assert len(part) == 1


def test_before_keeps_what_lies_before_the_end_of_its_partition() -> None:
    assert MESSAGES.before({0: 6, 1: 8}) == MESSAGES[:2]
    assert MESSAGES.before({1: 8}) == MESSAGES[1:2]


def test_next_offsets_lie_behind_the_last_message_of_each_partition() -> None:
    assert MESSAGES.next_offsets() == {0: 7, 1: 8}


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Messages([0], [1, 2], [3], [b""])
