"""What a time of day means to --cutover-at."""

from datetime import UTC, datetime

from migrator.cli.verbs.migrate import next_time


def test_a_time_that_has_passed_is_tomorrows() -> None:
    """`--cutover-at 02:00` in the evening is not a cutover at once."""
    evening = datetime(2026, 11, 30, 23, 10, tzinfo=UTC)

    assert next_time(datetime(1900, 1, 1, 2, 0), evening) == datetime(2026, 12, 1, 2, 0, tzinfo=UTC)  # noqa: DTZ001
    assert next_time(datetime(1900, 1, 1, 23, 30), evening) == datetime(2026, 11, 30, 23, 30, tzinfo=UTC)  # noqa: DTZ001
