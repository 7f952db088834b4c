"""What needs torch, wandb or mlflow: `make frameworks` runs it where they are."""
