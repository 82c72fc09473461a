"""Evidence of an SNP guest with certificates behind it, and the table that a host hands out."""

from tacit.errors import EvidenceFormatError
from tacit.evidence.snp.carried import read_table, render_carried, split_report
from tacit.evidence.snp.report import REPORT_SIZE

LIMIT = 16 << 10  # bytes; what the kernel takes of a host
REFUSALS = (EvidenceFormatError,)


def check(data: bytes) -> None:
    carried = read_table(data)
    if carried is not None:
        evidence = bytes(REPORT_SIZE) + render_carried(carried)
        assert split_report(evidence) == (bytes(REPORT_SIZE), carried)
    _, behind = split_report(bytes(REPORT_SIZE) + data)
    assert behind is None or render_carried(behind) == data
