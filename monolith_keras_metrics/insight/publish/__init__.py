"""Places where closed windows and alerts are published: TensorBoard, Prometheus, wandb, MLflow."""
