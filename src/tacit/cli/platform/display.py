"""Evidence and claims as rows: for a person's eyes, and with the same names for programs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import typer

from tacit.evidence import Claims
from tacit.evidence.anchor.certificates import is_simulated, parse_chain
from tacit.evidence.claims import Check
from tacit.evidence.fetch.amd import platform_of_report
from tacit.evidence.fetch.intel import platform_of_quote
from tacit.evidence.fetch.source import parse_any
from tacit.evidence.intel.quote import Quote
from tacit.evidence.sgx.report import SgxReport
from tacit.evidence.snp.report import SnpReport
from tacit.evidence.verify.binding import CHANNEL
from tacit.evidence.verify.ratls import is_certificate

Fields = dict[str, Any]


def parsed_fields(evidence: bytes, *, now: datetime) -> Fields:
    """What evidence says of itself. Raises: EvidenceFormatError."""
    found = parse_any(evidence, now=now)
    fields = _report_fields(found) if isinstance(found, SnpReport) else _quote_fields(found)
    if is_certificate(evidence):
        fields = {"Carried": "RA-TLS certificate", **fields}
    return fields


def _quote_fields(quote: Quote) -> Fields:
    report = quote.report
    software: Fields = (
        {"ProductID": report.product_id, "SecurityVersion": report.security_version}
        if isinstance(report, SgxReport)
        else {}
    )
    return {
        "Layout": f"{quote.tee} quote, version {quote.version}",
        **_registers(report.registers),
        **software,
        "Debug": report.debug,
        "Weaknesses": sorted(quote.weaknesses),
        "ReportData": report.report_data.hex(),
        "Platform": str(platform_of_quote(quote)),
        "Simulated": any(map(is_simulated, parse_chain(quote.pck_chain_pem))),
    }


def _report_fields(report: SnpReport) -> Fields:
    return {
        "Layout": f"snp report, version {report.version}",
        **_registers(report.registers),
        "GuestSVN": report.guest_svn,
        "Debug": report.debug,
        "Weaknesses": sorted(report.weaknesses),
        "ReportData": report.report_data.hex(),
        "Platform": str(platform_of_report(report)),
    }


def _registers(registers: Mapping[str, bytes]) -> Fields:
    """Those that hold something; the others are zero."""
    return {name: value.hex() for name, value in registers.items() if any(value)}


def claims_fields(claims: Claims) -> Fields:
    """Claims, by the names of a manifest where it has one for them."""
    signed: Fields = {"ProductID": claims.product_id, "SecurityVersion": claims.security_version}
    return {
        "TEE": str(claims.tee),
        **_registers(claims.registers),
        **(signed if claims.tee.layout == "sgx" else {}),
        "Debug": claims.debug,
        "Weaknesses": sorted(claims.weaknesses),
        "TCBStatus": claims.tcb_status,
        "Advisories": sorted(claims.advisories),
        "TCBEvaluation": claims.tcb_evaluation_number,
        **({"TCB": dict(claims.tcb_versions)} if claims.tcb_versions else {}),
        "HardwareID": claims.hardware_id.hex(),
        "ProductLine": claims.product_line,
        "ReportData": claims.report_data.hex(),
        "CollateralEnds": claims.expires.isoformat(),
    }


def check_rows(claims: Claims) -> list[dict[str, Any]]:
    """Every check, with the SHA-256 of what it was made over, or null.

    What evidence is bound to is listed whether or not anybody asked: that it binds no connection, a reader has to see.
    """
    listed = [one for one in claims.checks if one.number != CHANNEL.number]
    bound = [one for one in claims.checks if one.number == CHANNEL.number] or [
        Check(CHANNEL.number, CHANNEL.name, None)
    ]
    return [
        {
            "Number": one.number,
            "Name": one.name,
            "Made": one.made,
            "InputSHA256": None if one.input_sha256 is None else one.input_sha256.hex(),
        }
        for one in (*listed, *bound)
    ]


def say_table(fields: Fields) -> None:
    """Names and values, below each other."""
    wide = max(map(len, fields))
    for name, value in fields.items():
        typer.echo(f"{name:{wide}}  {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)
