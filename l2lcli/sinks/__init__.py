"""Where a run's rows are told to besides its files, one file for each: TensorBoard, Weights & Biases, MLflow."""
