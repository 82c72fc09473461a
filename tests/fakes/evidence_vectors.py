"""Recorded evidence as cases: what to verify, with what, under which root, when.

Real cases are folders with `quote.bin` or `report.bin`; negatives are real ones with edits, or simulated ones that hold
only what differs from a base.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.evidence import INTEL, Collateral, Tee, TrustAnchor
from tacit.evidence.anchor import AMD, INTEL_TDX
from tacit.evidence.snp.certificates import parse_amd_certificate
from tacit.evidence.verify import parse_collateral

OWN = Path(__file__).parents[1] / "vectors" / "evidence"
SHARED = Path(__file__).parents[2].parent / "shared" / "vectors" / "evidence"
ANCHORS = {"sgx": INTEL, "tdx": INTEL_TDX, "snp": AMD}
_SIMULATED = {"sgx": Tee.SIMULATED, "tdx": Tee.SIMULATED_TDX, "snp": Tee.SIMULATED_SNP}


@dataclass
class Case:
    """One verification; `collateral` is the bytes of a file, since some negatives are refused when it is read."""

    evidence: bytes
    collateral: bytes
    anchor: TrustAnchor
    now: datetime

    def read(self) -> Collateral:
        return parse_collateral(self.collateral)


def negatives(*families: str) -> list[dict[str, Any]]:
    """The recorded negatives whose id starts with one of these words."""
    file = SHARED / "negatives" / "negatives.json"
    entries = json.loads(file.read_text()) if file.exists() else []
    return [one for one in entries if one["id"].partition("-")[0] in families]


def amd_file(folder: Path) -> bytes:
    """The collateral file of a folder with AMD's certificates side by side."""
    leaf = next(folder / name for name in ("vcek.der", "vlek.der") if (folder / name).exists())
    chain = (folder / "ask.pem").read_text() + (folder / "ark.pem").read_text()
    return json.dumps({"leaf": leaf.read_bytes().hex(), "issuer_chain": chain, "crl": ""}).encode()


def real(folder: Path) -> Case:
    """A real case, at its recorded time."""
    meta = json.loads((folder / "meta.json").read_text())
    now = datetime.fromtimestamp(meta["verify_at_unix"], UTC)
    if (folder / "report.bin").exists():
        return Case((folder / "report.bin").read_bytes(), amd_file(folder), AMD, now)
    evidence, collateral = (folder / name for name in ("quote.bin", "collateral.json"))
    return Case(evidence.read_bytes(), collateral.read_bytes(), ANCHORS[folder.parent.name], now)


def own(folder: Path) -> Case:
    """A case of the project's own fixtures."""
    expect = json.loads((folder / "expect.json").read_text())
    file = next(folder / name for name in ("quote.bin", "report.bin") if (folder / name).exists())
    anchor = ANCHORS[expect["tee"]]
    moment = datetime.fromisoformat(expect["verify_at"])
    return Case(file.read_bytes(), (folder / "collateral.json").read_bytes(), anchor, moment)


def negative(entry: dict[str, Any]) -> Case:
    """The case of a recorded negative."""
    if entry["id"].startswith("snp-sim-"):
        return _simulated_report(entry)
    return edited(entry) if "base" in entry else _overlaid(entry)


def edited(entry: dict[str, Any]) -> Case:
    """A real case with the edits of an entry."""
    case = real(SHARED / entry["base"])
    evidence, collateral = bytearray(case.evidence), json.loads(case.collateral)
    for edit in entry["edits"]:
        match edit["op"]:
            case "xor":
                for index, mask in enumerate(bytes.fromhex(edit["hex"]), edit["offset"]):
                    evidence[index] ^= mask
            case "truncate":
                del evidence[edit["length"] :]
            case "append":
                evidence += bytes.fromhex(edit["hex"])
            case "zero":
                start, size = edit.get("offset", 0), edit.get("length", len(evidence))
                evidence[start : start + size] = bytes(size)
            case "time":
                case.now = _other_time(entry, edit, case)
            case "tamper":
                collateral[edit["field"]] = _tampered(edit["field"], collateral[edit["field"]])
            case _:
                collateral |= _replaced(edit, collateral)
    return Case(bytes(evidence), json.dumps(collateral).encode(), case.anchor, case.now)


def _other_time(entry: dict[str, Any], edit: dict[str, Any], case: Case) -> datetime:
    if "unix" in edit:
        return datetime.fromtimestamp(edit["unix"], UTC)
    leaf = parse_amd_certificate(bytes.fromhex(json.loads(case.collateral)["leaf"]))
    second = timedelta(seconds=1)
    return leaf.end + second if entry["id"].endswith("after-leaf-expiry") else leaf.begin - second


def _replaced(edit: dict[str, Any], collateral: dict[str, Any]) -> dict[str, Any]:
    """Fields of collateral that come from elsewhere."""
    what, _, name = edit["op"].partition(" from ")
    if what == "ca":
        other = json.loads(amd_file(SHARED / "snp" / name))
        return {"issuer_chain": other["issuer_chain"]}
    if what == "leaf":
        return {"leaf": (SHARED / "snp" / name / "vcek.der").read_bytes().hex()}
    assert what == "set", what
    if edit["field"] == "tcb_info+signature":
        other = json.loads((SHARED / edit["source"] / "collateral.json").read_text())
        return {name: other[name] for name in ("tcb_info", "tcb_info_signature")}
    return {edit["field"]: edit["value"] if "value" in edit else collateral[edit["source"]]}


def _tampered(field: str, text: str) -> str:
    if field == "tcb_info":
        return text.replace("OutOfDate", "UpToDate", 1)
    if field == "qe_identity":
        return text.replace('"isvsvn":', '"isvsvn": ', 1)
    return ("0" if text[0] != "0" else "1") + text[1:]


def _overlaid(entry: dict[str, Any]) -> Case:
    """The simulated platform's quote of an entry, made whole from the files that all entries share."""
    common, folder = SHARED / "negatives", SHARED / entry["path"]
    tee = entry["id"].partition("-")[0]

    def pick(name: str, fallback: str) -> bytes:
        return (folder / name if (folder / name).exists() else common / fallback).read_bytes()

    collateral = json.loads((common / f"base-collateral-{tee}.json").read_text())
    patch = folder / "collateral.patch.json"
    if patch.exists():
        collateral |= json.loads(patch.read_text())
    now = datetime.fromtimestamp(json.loads((folder / "meta.json").read_text())["verify_at_unix"], UTC)
    anchor = _simulated_anchor(tee, pick("root_ca.pem", "base-root_ca.pem"))
    return Case(pick("quote.bin", f"base-quote-{tee}.bin"), json.dumps(collateral).encode(), anchor, now)


def _simulated_report(entry: dict[str, Any]) -> Case:
    common = SHARED / "negatives"
    folder = common / entry["id"]
    leaf = folder / "vcek.der" if (folder / "vcek.der").exists() else common / "base-snp-vcek.der"
    above = [folder / f"{name}.pem" if (folder / f"{name}.pem").exists() else common / f"base-snp-{name}.pem"
             for name in ("ask", "ark")]  # fmt: skip
    chain = "".join(file.read_text() for file in above)
    file = json.dumps({"leaf": leaf.read_bytes().hex(), "issuer_chain": chain, "crl": ""}).encode()
    now = datetime.fromtimestamp(json.loads((common / "base-snp-meta.json").read_text())["verify_at_unix"], UTC)
    if entry["id"] == "snp-sim-ark-as-ask":
        chain = above[1].read_text() * 2
        file = json.dumps({"leaf": leaf.read_bytes().hex(), "issuer_chain": chain, "crl": ""}).encode()
    anchor = _simulated_anchor("snp", (common / "base-snp-ark.pem").read_bytes())
    return Case((folder / "report.bin").read_bytes(), file, anchor, now)


def _simulated_anchor(tee: str, pem: bytes) -> TrustAnchor:
    root = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    return TrustAnchor(_SIMULATED[tee], "the vectors' simulated root", root)
