"""GPTBigCode: config, single-device model, and the folder format of transformers."""
