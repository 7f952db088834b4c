"""One run = one folder: create it, log rows, checkpoint, keep the artefact, find trained optimizers."""
