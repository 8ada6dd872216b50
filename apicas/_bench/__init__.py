"""What `apicas bench` and the benchmarks of the repository measure with: pools of their own, pilots as processes."""
