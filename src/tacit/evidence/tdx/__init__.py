"""What does a trust domain's (TD's) report say? Its bytes come in, its fields and its weaknesses go out.

`report` is the layout in its three sizes, `module` the rules for Intel's TDX module. Quotes that carry one, and how
they are verified, are in `tacit.evidence.intel`.
"""
