"""The peers, and the raw loops: one file each; see benchmarks/measuring.py."""
