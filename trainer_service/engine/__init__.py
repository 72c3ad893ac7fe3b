"""Everything that imports torch: data, training loop, evaluation, publishing, and the small backbone's making."""
