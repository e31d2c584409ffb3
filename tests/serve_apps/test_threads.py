"""The number of threads follows what steps take."""

from collections import Counter

from serve_apps.engine.native.threads import ThreadChooser


def steps(chooser: ThreadChooser, count: int, seconds: dict[int, float], rows: int = 1) -> list[int]:
    """How many threads each of so many steps had, which took what `seconds` says of them."""
    used = []
    for _ in range(count):
        used.append(chooser.threads(rows))
        chooser.learn(rows, used[-1], seconds[used[-1]])
    return used


def mostly(used: list[int]) -> int:
    return Counter(used[-60:]).most_common(1)[0][0]


def test_a_quiet_machine_gives_every_core_and_hardly_anything_is_tried() -> None:
    used = steps(ThreadChooser(8), 2000, {8: 1.0, 4: 1.8, 2: 3.5, 1: 6.9})
    assert used[:4] == [8] * 4
    assert set(used) == {8, 4}  # never so few that a step takes very long
    assert sum(number != 8 for number in used[8:]) <= 2000 / 64


def test_who_gets_busy_neighbours_takes_fewer_and_more_again_when_they_are_gone() -> None:
    chooser = ThreadChooser(2)
    quiet, busy = {2: 1.0, 1: 1.7}, {2: 4.0, 1: 2.0}
    assert mostly(steps(chooser, 200, quiet)) == 2
    assert mostly(steps(chooser, 200, busy)) == 1
    assert mostly(steps(chooser, 1000, quiet)) == 2


def test_any_number_of_cores_is_left_and_come_back_to() -> None:
    chooser = ThreadChooser(12)
    assert mostly(steps(chooser, 300, {12: 8.0, 6: 4.0, 3: 2.0, 1: 1.0})) == 1
    assert mostly(steps(chooser, 9000, {12: 1.0, 6: 2.0, 3: 4.0, 1: 8.0})) == 12


def test_steps_of_other_sizes_are_another_matter() -> None:
    chooser = ThreadChooser(2)
    steps(chooser, 200, {2: 4.0, 1: 2.0}, rows=1)
    assert mostly(steps(chooser, 200, {2: 1.0, 1: 2.0}, rows=200)) == 2
    assert mostly(steps(chooser, 10, {2: 4.0, 1: 2.0}, rows=1)) == 1


def test_one_core_has_one() -> None:
    assert set(steps(ThreadChooser(1), 200, {1: 1.0})) == {1}


def test_what_is_as_quick_changes_nothing() -> None:
    assert steps(ThreadChooser(2), 300, {2: 1.0, 1: 0.95})[20:60] == [2] * 40
