"""One file that is all of apicas, for nodes where nothing can be installed. See docs/packaging.md."""
