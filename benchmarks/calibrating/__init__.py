"""What `benchmarks.calibration` is made of: subjects, their true answers, and cells of the table."""
