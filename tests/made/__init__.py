"""What tests are made of: small checkpoints, stores and catalogs whose answers are known."""
