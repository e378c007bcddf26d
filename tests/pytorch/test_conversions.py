"""The committed table of what scripts/check_conversions.py saw."""

import sys

from conftest import ROOT

from visiontool.hub import catalog, skeleton

sys.path.insert(0, str(ROOT / "scripts"))
import check_conversions


def test_every_classic_was_converted_and_is_within_the_limits():
    rows = check_conversions.read_table("conversions")
    missing = [name for name in check_conversions.classics() if name not in rows]
    assert not missing, "run python scripts/check_conversions.py"
    assert [name for name, row in rows.items() if check_conversions.is_outside(row)] == []


def test_the_catalogs_parameters_are_those_of_the_converted_networks():
    rows = check_conversions.read_table("conversions")
    classics = {entry.architecture: entry for entry in catalog.classics()}
    differ = {name: (int(row["params"]), classics[name].params) for name, row in rows.items() if name in classics}
    assert {name: both for name, both in differ.items() if both[0] != both[1]} == {}


def test_every_skeleton_was_filled_and_is_within_the_limits():
    rows = check_conversions.read_table("skeletons")
    assert set(check_conversions.with_skeleton()) == set(rows), "run scripts/check_conversions.py --table skeletons"
    assert [name for name, row in rows.items() if check_conversions.is_outside(row)] == []
    changed = [name for name, row in rows.items() if skeleton.path(name).stat().st_size != int(row["bytes"])]
    assert not changed, "run scripts/check_conversions.py --table skeletons --again NAME..."
