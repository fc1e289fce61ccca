"""Detection in more images than one run can be trusted with: a plan of parts, workers on them, a Parquet file for each."""
