"""Records are whole or not there, also after an agent that was killed while it wrote."""

from pathlib import Path

from agents.records import Records
from migrator.wire.facts import Claim, Record


def test_a_half_written_record_is_nothing(tmp_path: Path) -> None:
    """What a killed agent was writing goes away at the next start; what it had written stays."""
    Records(tmp_path).write(Record("shop", Claim.LEAVING, 3))
    (tmp_path / "shop.new").write_text('{"ve": "sh')

    records = Records(tmp_path)

    assert records.read("shop").order == 3
    assert [path.name for path in tmp_path.iterdir()] == ["shop.json"]
