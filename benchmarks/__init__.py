"""Our forms against the plain ones, as ratios in one process. Timings are noisy: read the ratios, and read them
twice."""
