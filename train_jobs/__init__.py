"""Ray Train + DeepSpeed: 3D-parallel pre-training of GPTBigCode models, layout-free checkpoints, export."""
