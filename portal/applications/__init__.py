"""Applications: what a folder in `job_templates/` says, and what a visitor may type into its form."""
