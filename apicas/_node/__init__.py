"""The node that a pilot fills: what there is, what tokens ask, what starts now, and when the batch job ends.

It knows nothing of pools, leases and pilots, and starts nothing; docs/design/0014-resources.md.
"""
