"""The tolerances file: the shipped one is whole, and a wrong one is refused by name of the key."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

import pytest

from harness.cases import CASES
from harness.compare.plan import FEATURES, RATES
from harness.compare.tolerance import Tolerances, load_tolerances
from harness.errors import InputError
from tests.synthetic import TOLERANCES

if TYPE_CHECKING:
    from pathlib import Path

    from harness.trace.schema import DType

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")
RULE = """
[[{table}]]
dtype = "{dtype}"
probes = "{probes}"
relative_l2 = {l2}
relative_max = 1
origin = "made up for this test"
"""
RATE = """
[[transcript]]
dtype = "float32"
rate = "wer"
change = 0.01
between = 0.02
origin = "made up for this test"
"""


def rule(probes: str = "*", *, table: str = "activation", dtype: str = "float32", l2: object = 0.5) -> str:
    return RULE.format(table=table, dtype=dtype, probes=probes, l2=l2)


def text(*activation: str, rate: str = RATE) -> str:
    return "".join(["schema_version = 1\n", rule(table="features"), *(activation or (rule(),)), rate])


def load(folder: Path, content: str | bytes) -> Tolerances:
    path = folder / "own.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_tolerances(path)


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, content)
    message = str(caught.value)
    start = f"tolerances {folder / 'own.toml'}: "
    assert message.startswith(start)
    return message.removeprefix(start)


class TestShipped:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("case", CASES, ids=[f"case{index}" for index in range(len(CASES))])
    def test_covers_every_probe_and_rate(self, case: str, dtype: DType) -> None:
        probes = CASES[case].probes(CASES[case].small_configs({}))
        for probe in probes:
            found = TOLERANCES.for_probe(probe.name, dtype=dtype)
            assert found.dtype == dtype
            assert 0 < found.relative_l2 <= found.relative_max < 0.1
        assert TOLERANCES.for_features(FEATURES, dtype=dtype).dtype == dtype
        for rate in RATES:
            assert 0 < TOLERANCES.for_rate(rate, dtype=dtype) <= (0.05 if "between" in rate else 0.01)

    def test_every_rule_has_an_origin(self) -> None:
        rules = [*TOLERANCES.features, *TOLERANCES.activation, *TOLERANCES.transcript]
        assert rules
        assert all(len(rule.origin) >= 10 for rule in rules)

    def test_no_rule_is_hidden_behind_another(self) -> None:
        """The first match holds: a catch-all before a special rule would leave that one without effect."""
        for rules in (TOLERANCES.features, TOLERANCES.activation):
            seen: set[str] = set()
            for found in rules:
                assert f"{found.dtype} *" not in seen
                assert f"{found.dtype} {found.probes}" not in seen
                seen.add(f"{found.dtype} {found.probes}")
        pairs = [(found.dtype, found.rate) for found in TOLERANCES.transcript]
        assert len(pairs) == len(set(pairs))

    @pytest.mark.parametrize("probe", ["encoder.conv1", "projector", "lm.logits", FEATURES])
    def test_coarser_dtypes_are_given_more(self, probe: str) -> None:
        single, half, brain = (
            TOLERANCES.for_probe(probe, dtype=dtype) for dtype in ("float32", "float16", "bfloat16")
        )
        assert single.relative_l2 < half.relative_l2 < brain.relative_l2
        assert single.relative_max < half.relative_max < brain.relative_max

    def test_is_packaged(self) -> None:
        assert (resources.files("harness") / "tolerances.toml").is_file()
        assert load_tolerances() == load_tolerances(None) == TOLERANCES


class TestRules:
    def test_first_match_wins(self, tmp_path: Path) -> None:
        found = load(tmp_path, text(rule("lm.*", l2=0.1), rule("lm.logits", l2=0.2), rule("*", l2=0.3)))
        assert found.for_probe("lm.logits", dtype="float32").relative_l2 == 0.1
        assert found.for_probe("projector", dtype="float32").relative_l2 == 0.3

    def test_dtype_comes_first(self, tmp_path: Path) -> None:
        found = load(tmp_path, text(rule("*", l2=0.1), rule("*", dtype="bfloat16", l2=0.2)))
        assert found.for_probe("projector", dtype="bfloat16").relative_l2 == 0.2

    @pytest.mark.parametrize(
        ("pattern", "probe", "matches"),
        [
            ("encoder.layers.*.k_proj", "encoder.layers.11.k_proj", True),
            ("encoder.layers.[01]", "encoder.layers.1", True),
            ("encoder.layers.[01]", "encoder.layers.10", False),
            ("encoder", "encoder.norm", False),
            ("LM.*", "lm.logits", False),
        ],
    )
    def test_patterns(self, tmp_path: Path, pattern: str, probe: str, matches: bool) -> None:
        found = load(tmp_path, text(rule(pattern, l2=0.1), rule("*", l2=0.9)))
        assert (found.for_probe(probe, dtype="float32").relative_l2 == 0.1) is matches

    def test_activations_and_features_have_rules_of_their_own(self, tmp_path: Path) -> None:
        found = load(tmp_path, text(rule(l2=0.25)))
        assert found.for_probe(FEATURES, dtype="float32").relative_l2 == 0.25
        assert found.for_features(FEATURES, dtype="float32").relative_l2 == 0.5

    def test_no_tolerance_at_all_is_allowed(self, tmp_path: Path) -> None:
        assert load(tmp_path, text(rule(l2=0))).for_probe("projector", dtype="float32").relative_l2 == 0

    def test_missing_rule(self, tmp_path: Path) -> None:
        found = load(tmp_path, text(rule("lm.*")))
        with pytest.raises(InputError, match=r"no rule for probe projector at float32; add one that matches"):
            found.for_probe("projector", dtype="float32")
        with pytest.raises(InputError, match=r"no rule for probe lm\.logits at bfloat16"):
            found.for_probe("lm.logits", dtype="bfloat16")
        with pytest.raises(InputError, match=r"no rule for probe features\.mel at float16"):
            found.for_features(FEATURES, dtype="float16")
        with pytest.raises(InputError, match=r"no transcript rule for cer at float32; add one"):
            found.for_rate("cer", dtype="float32")
        with pytest.raises(InputError, match=r"no transcript rule for wer\.between at float16; add one"):
            found.for_rate("wer.between", dtype="float16")

    def test_a_rate_has_two_bounds(self, tmp_path: Path) -> None:
        found = load(tmp_path, text())
        assert found.for_rate("wer", dtype="float32") == 0.01
        assert found.for_rate("wer.between", dtype="float32") == 0.02


class TestRefused:
    def test_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot be read: .*No such file"):
            load_tolerances(tmp_path / "nowhere.toml")

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"cannot be read: .*Is a directory"):
            load_tolerances(tmp_path)

    @pytest.mark.parametrize(
        "content", ["[[activation]\n", "relative_l2 = \n", text() + "\nx = 1\nx = 2\n", b"\xff"]
    )
    def test_not_toml(self, tmp_path: Path, content: str | bytes) -> None:
        assert refusal(tmp_path, content).startswith("cannot be read: ")

    @pytest.mark.parametrize("value", ["-1e-9", "nan", "inf", '"much"', "[1]"])
    def test_bound_that_is_none(self, tmp_path: Path, value: str) -> None:
        assert refusal(tmp_path, text(rule(l2=value))).startswith("activation.0.relative_l2: Input should be")

    @pytest.mark.parametrize(("key", "bound"), [("change", "0.01"), ("between", "0.02")])
    @pytest.mark.parametrize("value", ["-0.01", "nan"])
    def test_rate_that_is_none(self, tmp_path: Path, key: str, bound: str, value: str) -> None:
        wrong = text(rate=RATE.replace(bound, value))
        assert refusal(tmp_path, wrong).startswith(f"transcript.0.{key}: Input should be")

    @pytest.mark.parametrize(
        ("content", "where"),
        [
            (text() + "absolute = 1\n", "transcript.0.absolute: Extra inputs are not permitted"),
            (text(rule(), rule() + "cosine = 1\n"), "activation.1.cosine: Extra inputs are not permitted"),
            ("typo = 1\n" + text(), "typo: Extra inputs are not permitted"),
            (text().replace("schema_version = 1", "schema_version = 2"), "schema_version: Input should be 1"),
            (text().replace("schema_version = 1", ""), "schema_version: Field required"),
            (text(rate=""), "transcript: Field required"),
            (text(rate=RATE.replace("between = 0.02", "")), "transcript.0.between: Field required"),
            (text(rule(dtype="float8")), "activation.0.dtype: Input should be "),
            (text(rate=RATE.replace("wer", "ter")), "transcript.0.rate: Input should be 'wer' or 'cer'"),
            (text(rule().replace("relative_max = 1", "")), "activation.0.relative_max: Field required"),
        ],
    )
    def test_key(self, tmp_path: Path, content: str, where: str) -> None:
        assert refusal(tmp_path, content).startswith(where)

    @pytest.mark.parametrize("origin", ["", 'origin = "me"'])
    def test_number_without_its_origin(self, tmp_path: Path, origin: str) -> None:
        wrong = text(rule().replace('origin = "made up for this test"', origin))
        assert refusal(tmp_path, wrong).startswith("activation.0.origin: ")
