"""The trainer's rules: recipes, rows, jobs, queue, supervision. Knows no transport and no tensor library."""
