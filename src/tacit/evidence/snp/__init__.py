"""Is this one of AMD's SNP reports, from a genuine chip of the product lines that are known here?

`report` is the layout, `certificates` AMD's certificates (parsed without the certificate library, which will refuse
their serial number 0), `collateral` what belongs to a report, `verify` the numbered steps. No clock and no I/O.
"""
