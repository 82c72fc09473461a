"""Which line of a manifest would allow a piece of evidence."""

from datetime import timedelta

from fakes.tee import NOW, FakeTee, forge_collateral
from tacit.evidence import Claims, Role, report_data, verify_binding, verify_evidence
from tacit.manifest import Package, appraise
from tacit.manifest.appraise import RULES
from tacit.manifest.codec import parse_package
from tacit.manifest.review import explain as module
from tacit.manifest.review.explain import explain, package_lines


def claims_of(tee: FakeTee, status: str = "UpToDate") -> Claims:
    def rate(info: dict[str, list[dict[str, str]]]) -> None:
        info["tcbLevels"][0]["tcbStatus"] = status

    collateral = forge_collateral(tee.platform, info=rate, end=NOW + timedelta(days=9))
    evidence = tee.issue_evidence(report_data(role=Role.MARBLE, key=b"key"))
    claims = verify_evidence(evidence, collateral, tee.anchor, now=NOW)
    return verify_binding(claims, role=Role.MARBLE, key=b"key")


def test_every_rule_is_explained_in_its_order() -> None:
    assert tuple(rule for rule, _, _ in module._RULES) == RULES
    assert [one.number for one in explain(claims_of(FakeTee()))] == list(range(1, len(RULES) + 1))


def test_without_a_package_nothing_is_called_allowed() -> None:
    assert {one.refusal for one in explain(claims_of(FakeTee()))} == {None}


def test_the_lines_together_are_a_package_that_allows_it() -> None:
    import json

    for tee, status in ((FakeTee(), "UpToDate"), (FakeTee(debug=True), "UpToDate"), (FakeTee(), "ConfigurationNeeded")):
        claims = claims_of(tee, status)
        package = parse_package(json.dumps(package_lines(claims)).encode())
        assert appraise(claims, package).claims == claims
        assert {one.refusal for one in explain(claims, package)} == {""}


def test_each_rule_that_refuses_says_so_and_which_line_would_help() -> None:
    claims = claims_of(FakeTee(debug=True), "OutOfDate")
    found = {one.number: one for one in explain(claims, Package(tee="simulated", unique_id=b"\xee" * 32))}
    assert {number for number, one in found.items() if one.refusal} == {3, 5, 8}
    assert found[3].lines == {"Debug": True}
    assert found[8].lines == {"AcceptedTCBStatuses": ["OutOfDate"]}
    assert found[4].lines == {"UniqueID": FakeTee().enclave.measurement.hex()}
